"""What is committed and what is read can do no harm: no pickles, no evaluated text, no traces of a machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DANGEROUS = {
    "pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "eval", "exec", "system", "popen", "load_all",
    "unsafe_load", "full_load",
}  # fmt: skip
TEXTS = (".py", ".toml", ".yml", ".md", ".json", ".ipynb", ".txt", ".cff", ".js", ".css", "")
TRACES = re.compile(
    r"/(?:home|root|Users|tmp|work|var/folders)/|[A-Z]:\\Users|ghp_\w{20}|github_pat_\w{20}|AKIA[A-Z0-9]{16}|hf_\w{30}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def committed() -> list[Path]:
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a checkout")
    return [ROOT / name for name in listed.split("\0") if name]


def test_nothing_is_unpickled_or_evaluated() -> None:
    """Files may come from elsewhere: weights, records, bundles and shared folders are read as data alone."""
    found = {path.name: _dangers(ast.parse(path.read_text("utf-8"))) for path in (ROOT / "advdef").rglob("*.py")}
    assert {name: dangers for name, dangers in found.items() if dangers} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "eval('1')", "np.load(file)", "torch.load(file)",
        "yaml.unsafe_load(x)",
        "subprocess.run('ls', shell=True)", "os.system('ls')", "np.load(file, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_scan_sees_what_it_looks_for(code: str) -> None:
    assert _dangers(ast.parse(code))


def _dangers(tree: ast.Module) -> list[str]:
    found = []
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            names.append(str(node.module))
        if isinstance(node, ast.Call):
            called, given = node.func, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            names = [called.id] if isinstance(called, ast.Name) else [getattr(called, "attr", "")]
            if ast.unparse(called).endswith(".eval"):  # the mode of a network
                names = []
            if ast.unparse(called) in ("np.load", "numpy.load", "torch.load"):
                safe = given.get("allow_pickle") == "False" or given.get("weights_only") == "True"
                found += [] if safe else [ast.unparse(node)]
            found += [ast.unparse(node)] if given.get("shell") == "True" else []
        found += [name for name in names if name.partition(".")[0] in DANGEROUS]
    return found


def test_no_place_name_or_key_of_a_machine_is_committed() -> None:
    found = []
    for path in committed():
        if path != Path(__file__) and path.suffix in TEXTS and path.is_file():
            text = path.read_text("utf-8", errors="replace")
            found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in TRACES.finditer(text)]
    assert found == []
