"""Do the tests notice? Plants faults in a copy of the tree, one at a time: ``python tests/mutants.py [NAME]...``.

Each fault is a small edit that leaves the code running and its numbers wrong. Only the page or the unit tests that
should notice are run, first without the fault: a test that fails then proves nothing. Results are kept in
``build/mutants/results.json`` while the code is the same, so that an interrupted round goes on; the table is written to
``build/mutants/table.md``. Ends with 1 when an edit no longer fits its file, when tests fail without a fault, and when
fewer than ``LEAST`` of all faults are caught.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "mutants"
TREE = FOLDER / "tree"
LEAST = 18  # of all must be caught
PAGE = "tests/test_notebooks.py::test_recorded_values_agree_with_the_baseline[{}]"


@dataclass(frozen=True)
class Mutant:
    """An edit of a file, what it is, and what should notice: the name of a page's paper, or a file of unit tests."""

    name: str
    file: str
    old: str
    new: str
    what: str
    tests: str

    @property
    def selection(self) -> str:
        return self.tests if self.tests.endswith(".py") else PAGE.format(self.tests)


MUTANTS = (
    # pages
    Mutant(
        "planted fault left out", "notebooks/20_broken_on_purpose.py",
        '"detached": Detached(network)', '"detached": Undefended(network)',
        "one of the planted faults is the honest network", "broken_on_purpose",
    ),
    Mutant(
        "less noise", "notebooks/20_broken_on_purpose.py",
        "RandomInput(network, amount=0.5,", "RandomInput(network, amount=0.2,",
        "the random defence draws less noise", "broken_on_purpose",
    ),
    Mutant(
        "smaller eps", "notebooks/20_broken_on_purpose.py", "USUAL = 0.3 if", "USUAL = 0.1 if",
        "a third of the budget", "broken_on_purpose",
    ),
    Mutant(
        "fewer steps against peers", "notebooks/21_attack_agreement.py",
        "images=112, steps=20,", "images=112, steps=3,", "attacks of 3 steps instead of 20", "attack_agreement",
    ),
    Mutant(
        "other direction of a step", "advdef/attacks/gradient.py",
        "point + relative * around.eps", "point - relative * around.eps",
        "PGD and its family descend the loss", "attack_agreement",
    ),
    Mutant(
        "fewer PGD steps", "advdef/papers/qusecnets/study.py",
        "adaptive_images=16, steps=4,", "adaptive_images=16, steps=1,",
        "1 adaptive step instead of 4", "qusecnets",
    ),
    Mutant(
        "fewer epochs", "advdef/papers/qusecnets/study.py",
        "train=700, epochs={1: 3, 3: 3}", "train=700, epochs={1: 2, 3: 2}",
        "networks trained for 2 epochs instead of 3", "qusecnets",
    ),
    Mutant(
        "dropped surrogates", "advdef/papers/qusecnets/defence.py",
        'return {"identity": self.surrogate("identity"), "soft 5": self.surrogate(5.0), ', 'return {',
        "two of three gradients of a quantiser are not tried", "tests/test_quantization.py",
    ),
    Mutant(
        "adversarial training without attack", "advdef/papers/sensitivity/methods.py", "attack = dict(eps=eps,",
        "attack = dict(eps=0.0,", "the inner attack of every training has eps 0", "neuron_sensitivity",
    ),
    Mutant(
        "other neurons held", "advdef/papers/sensitivity/methods.py",
        '"SNS": (train_sns, {}),', '"SNS": (train_sns, dict(which="bottom")),',
        "SNS holds the least sensitive neurons", "neuron_sensitivity",
    ),
    Mutant(
        "looser rule", "advdef/papers/sensitivity/verdicts.py",
        "_TENTH, _CLOSE = 0.1, -0.3", "_TENTH, _CLOSE = 0.1, 1.0",
        "the bound of a verdict's rule lies where everything holds", "tests/test_verdicts_sensitivity.py",
    ),
    Mutant(
        "wrong layer", "advdef/papers/nip/influence.py",
        "default_taps(model)[-1] if layer is None", "default_taps(model)[-2] if layer is None",
        "NIP reads another layer than the features", "nip",
    ),
    Mutant(
        "shorter minimal attack", "advdef/papers/nip/profiles.py",
        "images=20, minimal=(6, 8),", "images=20, minimal=(2, 2),",
        "the smallest change is looked for with 2 halvings of 2 steps", "nip",
    ),
    Mutant(
        "half the restorer", "advdef/papers/trn/study.py",
        "train=300, restorer_epochs=4,", "train=300, restorer_epochs=2,",
        "restorers trained for 2 epochs instead of 4", "trn",
    ),
    Mutant(
        "detached map", "advdef/papers/trn/maps.py",
        "point = point if through else point.detach().clone().requires_grad_()",
        "through, point = False, point.detach().clone().requires_grad_()",
        "no gradient flows through the gradient map", "tests/test_gradient_map.py",
    ),
    Mutant(
        "half the purifier", "advdef/papers/snn/study.py", "pairs=400, purifier_epochs=4,",
        "pairs=400, purifier_epochs=1,", "the purifier is trained for 1 epoch instead of 4", "snn_purification",
    ),
    Mutant(
        "weaker inner attack", "advdef/papers/snn/study.py",
        "rate=1e-2, inner=2, levels=(\"LIF\", \"SE-MLF3\")", "rate=1e-2, inner=1, levels=(\"LIF\", \"SE-MLF3\")",
        "adversarial training with 1 inner step instead of 2", "snn_purification",
    ),
    Mutant(
        "other seed", "notebooks/30_five_defences.py", "seed = 0\n", "seed = 3\n",
        "another seed passes for the default", "five_defences",
    ),
    Mutant(
        "robust by name alone", "advdef/papers/line_up.py", 'attacked = {"eps": self.eps,', 'attacked = {"eps": 0.0,',
        "adversarial training and SNS attack with eps 0", "five_defences",
    ),
    # what the pages stand on
    Mutant(
        "last iterate", "advdef/attacks/restarts.py",
        "best[rows] = torch.where(spread(better), point, best[rows])", "best[rows] = point",
        "attacks return their last iterate instead of the best", "tests/test_attacks.py",
    ),
    Mutant(
        "luck that depends on the device", "advdef/attacks/restarts.py",
        "better &= earlier <= 0", "pass",
        "an image that has reached its goal goes on until a GPU is asked", "tests/test_devices.py",
    ),
    Mutant(
        "device without float64", "advdef/devices.py",
        'values.detach().to("cpu" if not has_float64(values.device) else values.device).double()',
        "values.detach().double()",
        "what MPS does not have is asked of it", "tests/test_devices.py",
    ),
    Mutant(
        "no projection", "advdef/norms.py",
        "return torch.minimum(torch.maximum(points, self.low), self.high)", "return points.clamp(0, 1)",
        "Linf attacks leave their ball", "tests/test_attacks.py",
    ),
    Mutant(
        "no restarts", "advdef/attacks/restarts.py", "while done < restarts:", "while done < 1:",
        "restarts are dropped", "tests/test_attacks.py",
    ),
    Mutant(
        "sign of a loss", "advdef/attacks/losses.py", "return wrong - true", "return true - wrong",
        "the margin has the other sign", "tests/test_attacks.py",
    ),
    Mutant(
        "own step size", "advdef/attacks/auto_pgd.py", "2 * eps, none, none == 0)",
        "0.5 * eps, none, none == 0)", "APGD starts with a quarter of its step size", "tests/test_attacks.py",
    ),
    Mutant(
        "exchanged weights", "advdef/training/adversarial.py",
        "loss = alpha * F.cross_entropy(clean, labels) + (1 - alpha) * F.cross_entropy(attacked_logits, labels)",
        "loss = (1 - alpha) * F.cross_entropy(clean, labels) + alpha * F.cross_entropy(attacked_logits, labels)",
        "clean and attacked images exchange their weights", "tests/test_adversarial_training.py",
    ),
    Mutant(
        "exchanged sides", "advdef/papers/snn/training.py",
        "(estimate.abs() < truth.abs())", "(estimate.abs() > truth.abs())",
        "the asymmetric loss forgives too small an estimate", "tests/test_purification_training.py",
    ),
    Mutant(
        "no temperature", "advdef/papers/trn/smoothing.py", "return logits / self.temperature", "return logits",
        "the smoothed twin forgets its temperature", "tests/test_smoothing.py",
    ),
    Mutant(
        "no expectation", "advdef/attacks/wrappers.py", "for _ in range(self.samples)", "for _ in range(1)",
        "the attack on a random defence follows a single draw", "tests/test_attacks.py",
    ),
    Mutant(
        "no floor", "advdef/papers/sensitivity/meter.py", "_FLOOR = 1e-3", "_FLOOR = 0.0",
        "a nearly dead neuron's sensitivity shows rounding", "tests/test_sensitivity.py",
    ),
    Mutant(
        "breaks believed", "advdef/evaluation/holes/later.py", "return torch.where(spread(allowed), points, images)",
        "return points", "what was found later is not held to the budget", "tests/test_holes.py",
    ),
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Try the named faults, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="*", help="; ".join(mutant.name for mutant in MUTANTS))
    names = parser.parse_args(arguments).name
    if unknown := set(names) - {mutant.name for mutant in MUTANTS}:
        parser.error(f"no fault {', '.join(sorted(unknown))}; there are {', '.join(m.name for m in MUTANTS)}")
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    for mutant in chosen:
        count = (ROOT / mutant.file).read_text("utf-8").count(mutant.old)
        if count != 1:
            print(f"{mutant.name}: {mutant.file} says {mutant.old!r} {count} times, not once: adapt the edit")
            return 1
    state = copy_tree()
    print("without a fault:", flush=True)
    controls = {s: tried(("", s), s, state) for s in dict.fromkeys(mutant.selection for mutant in chosen)}
    if broken := [selection for selection, (outcome, _) in controls.items() if outcome != "survived"]:
        print("these tests fail, or do not run, without a fault:", *broken, sep="\n  ")
        return 1
    rows = []
    for mutant in chosen:
        path = TREE / mutant.file
        whole = path.read_text("utf-8")
        path.write_text(whole.replace(mutant.old, mutant.new), "utf-8")
        try:
            outcome, seconds = tried(astuple(mutant), mutant.selection, state)
        finally:
            path.write_text(whole, "utf-8")
        print(f"{outcome:<10}{mutant.name}", flush=True)
        rows.append((mutant, outcome, seconds))
    caught = sum(outcome == "caught" for _, outcome, _ in rows)
    table = ["| fault | what it is | tests | outcome | seconds |", "|---|---|---|---|---|"]
    table += [f"| {m.name} | {m.what} (`{m.file}`) | {m.tests} | {outcome} | {s:.0f} |" for m, outcome, s in rows]
    table += ["", f"{caught} of {len(rows)} caught."]
    (FOLDER / "table.md").write_text("\n".join(table) + "\n", "utf-8")
    print("", *table, sep="\n")
    return int(caught < (LEAST if chosen == list(MUTANTS) else len(chosen)))


def copy_tree() -> str:
    """Copies the files that git knows or would add; returns a hash of all but this one."""
    shutil.rmtree(TREE, ignore_errors=True)
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    found = hashlib.sha256()
    for name in sorted(filter(None, names)):
        if not (ROOT / name).is_file():
            continue  # deleted, and git was not told
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, TREE / name)
        if name.endswith((".py", ".json", ".yml", ".toml", ".txt")) and ROOT / name != Path(__file__).resolve():
            found.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return found.hexdigest()


def tried(what: Iterable[str], selection: str, state: str) -> tuple[str, float]:
    """ "caught", "survived" or "error" (the tests did not run), and how long that took; from the results if known."""
    results = FOLDER / "results.json"
    known = json.loads(results.read_text("utf-8")) if results.is_file() else {}
    key = hashlib.sha256("\0".join((state, *what)).encode()).hexdigest()
    if key in known:
        return known[key]["outcome"], known[key]["seconds"]
    # without compiled files: two edits of one size within a second would look the same to Python
    settings = {"PYTHONPATH": str(TREE), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:xdist", "-p", "no:cacheprovider", selection]
    started = time.monotonic()
    done = subprocess.run(command, cwd=TREE, env=os.environ | settings, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    outcome = {0: "survived", 1: "caught"}.get(done.returncode, "error")
    if outcome == "error":
        print(done.stdout + done.stderr)
        return outcome, seconds
    known[key] = {"what": list(what), "outcome": outcome, "seconds": seconds}
    results.write_text(json.dumps(known, indent=1), "utf-8")
    print(f"  {seconds:4.0f} s  {selection}", flush=True)
    return outcome, seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
