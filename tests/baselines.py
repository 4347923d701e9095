"""Writes the baselines of the notebooks: ``python tests/baselines.py [NOTEBOOK]...``, all by default.

Each notebook is executed in the smoke profile as it is, under some variants of tests/variants.py, where the processor
can do them, and with another seed. What the runs differ by is what a test allows, by the rules of
``regression.allowing``. A run is kept in ``build/baselines/VARIANT/NOTEBOOK.json`` and used again while the code is the
same, so that an interrupted collection goes on. Folders of other names there are runs of another processor, copied by
hand.

Where a page has moved on a processor of another kind, and on no other, ``--here`` runs it there once and lets the
committed baseline move as far as that run did, by the same rules.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from regression import allowing, read_baseline, widened, write_baseline
from test_notebooks import PAPERS, ROOT, executed, found_in
from variants import VARIANTS, impossible

from advdef.store import write_atomically

KEPT = ROOT / "build" / "baselines"
REFERENCE = "one thread"
ROUNDING = ("sse", "avx2", "channels first")
SEEDS = (1,)
Values = dict[str, dict[str, Any]]


def code(paper: str) -> str:
    """Changes with the package and with the notebook."""
    files = (*sorted((ROOT / "advdef").rglob("*.py")), PAPERS[paper].with_suffix(".py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def values(paper: str, variant: str, *, seed: int = 0) -> Values:
    """What the notebook records under the variant: from the kept run, or from a new one."""
    path = KEPT / (f"seed {seed}" if seed else variant) / f"{PAPERS[paper].stem}.json"
    if (kept := _kept(paper, path)) is not None:
        return kept
    print(f"{PAPERS[paper].stem}: {path.parent.name}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        _, notebook, results = executed(paper, Path(folder), {"seed": seed}, VARIANTS[variant])
        found = found_in(notebook, results)
    run = {"code": code(paper), "processor": torch.backends.cpu.get_cpu_capability(), "values": found}
    write_atomically(path, json.dumps(run).encode())
    return found


def _kept(paper: str, path: Path) -> Values | None:
    if not path.is_file():
        return None
    run = json.loads(path.read_text("utf-8"))
    return run["values"] if run["code"] == code(paper) else None


def collect(paper: str) -> None:
    """Run what has not been run, and write the baseline."""
    reference = values(paper, REFERENCE)
    here = [variant for variant in ROUNDING if not impossible(variant)]
    rounding = {variant: values(paper, variant) for variant in here}
    seeds = [values(paper, REFERENCE, seed=seed) for seed in SEEDS]
    known = {*VARIANTS, *(f"seed {seed}" for seed in SEEDS)}
    for folder in sorted(KEPT.iterdir()):
        other = None if folder.name in known else _kept(paper, folder / f"{PAPERS[paper].stem}.json")
        if other is not None:
            rounding[folder.name] = other
    processor = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    variants = {"reference": f"{REFERENCE}, {processor}", "rounding": list(rounding), "seeds": list(SEEDS)}
    found = allowing(reference, rounding=list(rounding.values()), seeds=seeds)
    write_baseline(ROOT / "tests" / "baselines" / f"{PAPERS[paper].stem}.json", found, variants=variants)
    flips = sorted(value["flips"] for value in found.values() if "flips" in value)
    edge = [name for name, value in found.items() if "seen" in value]
    middle = f"flips {flips[len(flips) // 2]} in the median, {flips[-1]} at most" if flips else "no hits"
    print(f"{PAPERS[paper].stem}: {len(found)} values, {middle}; on the edge: {', '.join(edge) or 'none'}", flush=True)


def widen(paper: str) -> None:
    """Let the committed baseline also move as a run on this processor does."""
    path = ROOT / "tests" / "baselines" / f"{PAPERS[paper].stem}.json"
    variants = json.loads(path.read_text("utf-8"))["variants"]
    here = f"{REFERENCE}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    before = read_baseline(path)
    found = widened(before, values(paper, REFERENCE))
    variants["rounding"] = list(dict.fromkeys((*variants["rounding"], here)))
    write_baseline(path, found, variants=variants)
    print(f"{path.stem}: {sum(found[name] != before[name] for name in found)} of {len(found)} values may move further")


def main(arguments: list[str]) -> int:
    """Collect the named notebooks, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebook", nargs="*", help=f"any of {', '.join(PAPERS)}, or its file's name without ending")
    parser.add_argument("--here", action="store_true", help="add a run on this processor to what is committed")
    asked = parser.parse_args(arguments)
    chosen = asked.notebook
    names = {PAPERS[paper].stem: paper for paper in PAPERS} | {paper: paper for paper in PAPERS}
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no notebook {', '.join(unknown)}; there are {', '.join(PAPERS)}")
    for paper in [names[name] for name in chosen] or PAPERS:
        (widen if asked.here else collect)(paper)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
