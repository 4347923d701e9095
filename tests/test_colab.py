"""The set-up cell for Colab in a clean environment, with a stand-in for Colab and this checkout as the source."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest

import advdef

pytestmark = [pytest.mark.slow, pytest.mark.thorough]

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))

# A Colab kernel has google.colab loaded before the first cell runs.
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

if sys.argv[2] == "colab":
    import google.colab
with open(sys.argv[1]) as file:
    InteractiveShell.instance().run_cell(file.read()).raise_error()

from importlib import metadata
found = {}
if any(d.metadata["Name"] == "advdef" for d in metadata.distributions()):
    advdef = metadata.distribution("advdef")
    found = {"version": advdef.version, "source": json.loads(advdef.read_text("direct_url.json"))["url"]}
    kinds = (".py", ".yml", ".json", ".txt")
    own = [file for file in advdef.files if file.parts[0] == "advdef" and file.suffix in kinds]
    found["files"] = {str(file): file.read_text() for file in own}
print("FOUND" + json.dumps(found))
"""


# The cells that import, each in a fresh namespace, with the package from the clean environment alone.
IMPORTS = """
import json, sys
from pathlib import Path

import advdef
assert Path(advdef.__file__).is_relative_to(sys.prefix), advdef.__file__
for name, cell in json.loads(Path(sys.argv[1]).read_text()).items():
    exec(compile(cell, name, "exec"), {})
    print("imported", name)
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with IPython and hatchling (which builds the package) and nothing else of ours."""
    folder = tmp_path_factory.mktemp("colab")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "ipython", "hatchling"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no package index can be reached: {done.stderr.strip().splitlines()[-1]}")
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    stand_in = (
        Path(subprocess.run(where, capture_output=True, text=True, check=True).stdout.strip()) / "google" / "colab"
    )
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").write_text("")
    return python


def run_cell(python: Path, cell: Path, *, where: str) -> tuple[dict[str, object], str]:
    """What is installed after the cell has run, and all that was printed."""
    (script := cell.with_name("run.py")).write_text(RUN)
    own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    environment = {
        **own,
        "ADVDEF_SOURCE": ROOT.as_uri(),
        "IPYTHONDIR": str(cell.parent / "ipython"),
        # torch and its friends are there on Colab; here they would take minutes.
        "PIP_NO_DEPS": "1",
        # Off, in pip's way of reading this variable: the build uses the hatchling that is installed.
        "PIP_NO_BUILD_ISOLATION": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    command = [str(python), str(script), str(cell), where]
    done = subprocess.run(command, env=environment, cwd=cell.parent, capture_output=True, text=True, check=False)
    printed = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, printed
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    return json.loads(line.removeprefix("FOUND")), printed


@pytest.mark.skipif(not NOTEBOOKS, reason="no notebooks yet")
def test_the_set_up_cell_installs_the_package(clean: Path, tmp_path: Path) -> None:
    cells = {
        path.name: [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        for path in NOTEBOOKS
    }
    set_up = {name: [source for source in found if "google.colab" in source] for name, found in cells.items()}
    assert {name: len(found) for name, found in set_up.items()} == dict.fromkeys(set_up, 1)
    different = sorted({found[0] for found in set_up.values()})
    for source in different:
        cell = tmp_path / "cell.txt"
        cell.write_text(source)
        # Elsewhere it does nothing.
        subprocess.run(
            [str(clean), "-m", "pip", "--quiet", "uninstall", "--yes", "advdef"], check=True, capture_output=True
        )
        assert run_cell(clean, cell, where="elsewhere")[0] == {}
        installed, printed = run_cell(clean, cell, where="colab")
        assert installed, printed
        assert installed["version"] == advdef.__version__
        assert installed["source"] == ROOT.as_uri()
        files = installed["files"]
        assert isinstance(files, dict)
        package = {
            str(p.relative_to(ROOT)): p
            for p in (ROOT / "advdef").rglob("*")
            if p.suffix in (".py", ".yml", ".json", ".txt")
        }
        assert {name.replace("\\", "/") for name in files} == {name.replace("\\", "/") for name in package}
        assert [name for name, path in package.items() if files[name] != path.read_text(encoding="utf-8")] == []
    import_all(clean, {name: next(s for s in found if "\nfrom advdef" in s) for name, found in cells.items()}, tmp_path)


def import_all(python: Path, cells: dict[str, str], folder: Path) -> None:
    """Run the notebooks' imports on the installed package: is everything in it that they need?

    torch and the others come from this environment, without what is installed there as editable, which is advdef.
    """
    (script := folder / "imports.py").write_text(IMPORTS)
    (given := folder / "cells.json").write_text(json.dumps(cells))
    others = sysconfig.get_path("purelib")
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONHOME", "VIRTUAL_ENV")}
    command = [str(python), str(script), str(given)]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": others}, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("imported") == len(cells) == len(NOTEBOOKS)
