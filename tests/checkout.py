"""A small checkout in a temporary folder, for the tests of everything that works on one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import jupytext
import nbformat

from advdef.book.repository import Repository

PARAMETERS = '# %% tags=["parameters"]\nprofile = "smoke"\ndataset = None\nseed = 0\ndevice = None\n'

GOOD = f"""# %% [markdown]
# # A notebook
#
# It has some words.
#
# ## Verdicts

{PARAMETERS}
# %%
import json, os, pathlib

folder = pathlib.Path(os.environ["ADVDEF_RESULTS"]) / "good"
folder.mkdir(parents=True, exist_ok=True)
verdict = dict(claim="good-G1", sentence="It works.", source="paper", verdict="supported", evidence=f"seed {{seed}}")
verdict.update(attacker="", images=None, seeds=None, conditions=[])
ran = dict(seed=seed, python="3", versions={{}}, device_name="a machine", commit="abc", date="today", wall_seconds=60)
record = dict(schema=3, networks=[], paper="good", dataset="digits", profile=profile, verdicts=[verdict])
record.update(provenance=ran, comparisons=[], checks=[], costs=[], values={{}}, results=[])
record.update(run=os.environ.get("ADVDEF_RUN"))
_ = (folder / f"digits-{{profile}}-seed{{seed}}.json").write_text(json.dumps(record))

# %%
seed + 1
"""

BAD = f"""# %% [markdown]
# # It fails

{PARAMETERS}
# %%
print("so far, so good")

# %%
raise ValueError("the third wheel")

# %%
print("never")
"""


STAND_IN = """
import pathlib, sys, time
pages = pathlib.Path(sys.argv[sys.argv.index("--path-output") + 1], "_build/html")
pages.mkdir(parents=True)
time.sleep(0.5)
(pages / "index.html").write_text("whole")
"""
"""What is run in the place of jupyter-book where no page has to be rendered."""


def make(root: Path, notebooks: Mapping[str, str]) -> Repository:
    """A checkout with a page of prose and these notebooks (stem -> text in percent format)."""
    (root / "notebooks").mkdir(parents=True)
    (root / "book").mkdir()
    prose = {
        "intro": "# A tiny book\n\nWith some prose.\n",
        "verdicts": '# Verdicts\n\n<a id="good-g1"></a>\n',
        "records": "# Records\n",
    }
    for page, text in prose.items():
        (root / "book" / f"{page}.md").write_text(text)
    config = (
        "title: Tiny\nauthor: The advdef authors\nonly_build_toc_files: true\nexecute:\n  execute_notebooks: force\n"
    )
    (root / "_config.yml").write_text(config)
    files = [*(f"notebooks/{stem}" for stem in notebooks), "book/verdicts", "book/records"]
    chapters = "".join(f"  - file: {file}\n" for file in files)
    (root / "_toc.yml").write_text(f"format: jb-book\nroot: book/intro\nchapters:\n{chapters}")
    for stem, text in notebooks.items():
        put(root, stem, text)
    return Repository(root)


def put(root: Path, stem: str, text: str) -> None:
    """Write both files of a notebook."""
    path = root / "notebooks" / stem
    path.with_suffix(".py").write_text(text)
    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    nbformat.write(notebook, path.with_suffix(".ipynb"))


def tags(path: Path) -> list[str]:
    """All tags of all cells of a notebook."""
    return [tag for cell in nbformat.read(path, as_version=4).cells for tag in cell.metadata.get("tags", [])]


def outputs(path: Path) -> str:
    """All outputs of a notebook as JSON text."""
    return json.dumps([cell.get("outputs", []) for cell in nbformat.read(path, as_version=4).cells])


def alive(pid: int) -> bool:
    """Whether a process is at work; one that has ended and waits for its parent is not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.is_file() and status.read_text().rsplit(")", 1)[1].split()[0] == "Z")
