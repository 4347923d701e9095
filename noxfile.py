"""The jobs of the project: ``nox -s reproduce`` (the default) and those that ``nox --list`` names.

All but ``canary`` and what asks in ``audit`` share one virtual environment, ``.nox/advdef``, with the exact versions of
``constraints.txt``. It is installed once: a stamp in it says for which Python, place, ``pyproject.toml`` and
``constraints.txt`` it was made. Arguments after ``--`` go to the command that a job runs.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".nox" / "advdef"
NEWEST_VERSIONS = ROOT / ".nox" / "canary"
AUDIT = ROOT / ".nox" / "audit"
STAMP = ENVIRONMENT / "advdef-stamp"
# Libraries that our attacks, and the speed of our spiking networks, are compared with. They pin old versions of what
# the book needs, and work without these.
PEERS = ROOT / ".nox" / "peers"
PEER_PACKAGES = (
    "torchattacks==3.5.1",
    "adversarial-robustness-toolbox==1.20.1",
    "six==1.17.0",
    "spikingjelly==2.0.0",
    "loguru==0.7.3",
)
INPUTS = ("pyproject.toml", "constraints.txt")
EXTRAS = "book,test,eval,cluster,dev"
OLDEST, NEWEST = (3, 11), (3, 13)
# each core has a worker; tests/conftest.py says what is one worker's
PYTEST = ("pytest", "-n", "auto", "--dist", "loadgroup", "--no-loadscope-reorder")
NOTHING_ROUNDS = (
    "-m", "not site", "--ignore=tests/test_rehearsal.py", "--ignore=tests/test_guide.py",
    "--ignore=tests/test_pretended_pages.py",
)  # fmt: skip

# The schemas that files have to fit; check-jsonschema brings them along.
WORKFLOWS = [*ROOT.glob(".github/workflows/*.yml")]
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "custom.github-workflows-require-timeout": WORKFLOWS,
    "vendor.github-issue-forms": [f for f in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml") if f.name != "config.yml"],
    "vendor.github-issue-config": [ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.dependabot": [ROOT / ".github" / "dependabot.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}

# nox itself would make one environment per session; "none" leaves that to `environment`.
nox.options.default_venv_backend = "none"
nox.options.sessions = ["reproduce"]


@nox.session
def reproduce(session: nox.Session) -> None:
    """Execute the notebooks, render the site, print the verdicts: ``nox -s reproduce -- --profile laptop``."""
    _run(session, "advdef", "reproduce", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests and the examples in docstrings: ``nox -s tests -- -k cli``.

    ``-- --all`` also rehearses the largest profiles, tries the set-up cell in an environment of its own, and executes
    each notebook with another seed.
    """
    _run(session, *PYTEST, *session.posargs)


@nox.session
def processors(session: nox.Session) -> None:
    """Run the tests under what changes rounding, as another processor does: ``nox -s processors -- --variant avx2``.

    The variants stand in tests/variants.py; those that the processor cannot do are skipped by name. Left out are tests
    that compare nothing that rounds: of the rendered site, the guide and the rehearsals of larger profiles.
    """
    _run(session, "python", "tests/variants.py", "-m", *PYTEST, *NOTHING_ROUNDS, *session.posargs)


@nox.session
def baselines(session: nox.Session) -> None:
    """Write the baselines of the pages, with what rounding and seeds allow: ``nox -s baselines -- qusecnets``."""
    _run(session, "python", "tests/baselines.py", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant faults and see whether the tests notice: ``nox -s mutants -- "sign of a loss"``."""
    _run(session, "python", "tests/mutants.py", *session.posargs)


@nox.session
def book(session: nox.Session) -> None:
    """Render the site from the committed notebooks."""
    _run(session, "advdef", "book", *session.posargs)


@nox.session
def holes(session: nox.Session) -> None:
    """Search for what a page's attackers did not find: ``nox -s holes -- five_defences TRN --profile laptop``.

    What breaks is kept in ``book/results/PAGE/holes``, and the page takes it in, judged anew, when it next runs.
    """
    _run(session, "advdef", "holes", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill work under way 200 times, and look at what is left (on Linux): ``nox -s faults -- --kills 40 --seed 1``."""
    _run(session, "python", "tests/faults.py", *session.posargs)


@nox.session
def audit(session: nox.Session) -> None:
    """Ask which of the tested versions have known vulnerabilities, and which licences the packages have.

    Needs the internet. pip-audit has an environment of its own, ``.nox/audit``, made anew each time.
    """
    shutil.rmtree(AUDIT, ignore_errors=True)
    session.run_install(sys.executable, "-m", "virtualenv", "--quiet", str(AUDIT), external=True)
    scripts, listed, report = _scripts(AUDIT), AUDIT / "packages.txt", AUDIT / "report.json"
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    session.run_install(str(scripts / "python"), *install, "pip-audit", external=True)
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    listed.write_text("\n".join((constraints, *PEER_PACKAGES)) + "\n", encoding="utf-8")
    ask = ("--requirement", str(listed), "--no-deps", "--disable-pip", "--format", "json", "--output", str(report))
    # 1 is for vulnerabilities; tests/audit.py tells them, and those packages that were not looked up
    session.run(str(scripts / "pip-audit"), *ask, external=True, silent=True, success_codes=[0, 1])
    _run(session, "python", "tests/audit.py", str(report), str(PEERS))


@nox.session
def bench(session: nox.Session) -> None:
    """Measure speed against other libraries, and against the machine, in the same run: ``nox -s bench -- -k spiking``.

    The numbers end in ``build/speed.json``; copied to ``book/speed.json`` they are those of the page *Speed*.
    """
    _run(session, "pytest", "-s", "--override-ini", "python_files=bench_*.py", "tests/benchmarks", *session.posargs)


@nox.session
def pretend(session: nox.Session) -> None:
    """Execute the pages on a device that refuses what a GPU or a Mac refuses: ``nox -s pretend -- -k nip``."""
    _run(session, *PYTEST, "--all", "tests/test_pretended_pages.py", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Make the most of a few minutes of a GPU: ``nox -s gpu -- --minutes 10``.

    Tests and the agreement with the CPU, benchmarks, then as many pages as fit, the most undecided first; all of it
    ends in one archive. Unpacked here, it lets the next session go on from there.
    """
    _run(session, "python", "tests/gpu_session.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, types and layers, and the files that GitHub and pre-commit read."""
    _run(session, "ruff", "check", "--no-cache", ".")  # a cache hides what another file changed
    _run(session, "ruff", "format", "--check", ".")
    _run(session, "mypy")
    _run(session, "lint-imports", "--no-cache")
    for schema, files in SCHEMAS.items():
        _run(session, "check-jsonschema", "--quiet", "--builtin-schema", schema, *map(str, files))
    _run(session, "zizmor", "--offline", "--quiet", "--persona", "pedantic", ".")
    _run(session, "pre-commit", "validate-config")


@nox.session
def canary(session: nox.Session) -> None:
    """Run the tests with the newest versions that pyproject.toml allows, and list those that differ from the tested.

    The environment, ``.nox/canary``, is made anew each time. To hold a package back, name a file of constraints in
    pip's variable ``PIP_CONSTRAINT``.
    """
    shutil.rmtree(NEWEST_VERSIONS, ignore_errors=True)
    session.run_install(sys.executable, "-m", "virtualenv", "--quiet", str(NEWEST_VERSIONS), external=True)
    scripts = _scripts(NEWEST_VERSIONS)
    install = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade")
    session.run_install(str(scripts / "python"), *install, "-e", f".[{EXTRAS}]", external=True)
    freeze = (str(scripts / "python"), "-m", "pip", "freeze", "--exclude-editable")
    here = _versions(str(session.run(*freeze, silent=True, external=True)).splitlines())
    tested = _versions((ROOT / "constraints.txt").read_text("utf-8").splitlines())
    newer = [name for name in sorted(here) if tested.get(name, here[name]) != here[name]]
    listed = ", ".join(f"{name} {tested[name]} -> {here[name]}" for name in newer)
    session.log(f"{len(newer)} packages differ from constraints.txt: {listed or 'none'}")
    session.env["VIRTUAL_ENV"] = str(NEWEST_VERSIONS)
    if PEERS.is_dir():
        session.env["ADVDEF_PEERS"] = str(PEERS)
    command, *options = PYTEST
    session.run(str(scripts / command), *options, *session.posargs, external=True)


def _versions(lines: Iterable[str]) -> dict[str, str]:
    """Versions by name, from lines ``name==version``; a local part (``+cpu``) does not count."""
    pairs = (line.strip().split("==") for line in lines if "==" in line)
    return {name.lower().replace("_", "-"): version.partition("+")[0] for name, version in pairs}


def _run(session: nox.Session, command: str, *args: str) -> None:
    """Run a command of the shared environment, which is first made when it is not up to date."""
    scripts = environment(session)
    session.env["VIRTUAL_ENV"] = str(ENVIRONMENT)
    session.env["PYTHONDONTWRITEBYTECODE"] = ""  # else each process would compile what it imports
    if PEERS.is_dir():
        session.env["ADVDEF_PEERS"] = str(PEERS)
    session.run(str(scripts / command), *args, external=True)


def environment(session: nox.Session) -> Path:
    """The folder of the shared environment's commands; installs it when the stamp says that something has changed."""
    here = sys.version_info[:2]
    if not OLDEST <= here <= NEWEST:
        session.error(
            f"advdef is tested on Python {_dotted(OLDEST)} to {_dotted(NEWEST)}, and nox runs on {_dotted(here)}; "
            f"with another one: python{_dotted(NEWEST)} -m pip install nox && python{_dotted(NEWEST)} -m nox"
        )
    scripts = _scripts(ENVIRONMENT)
    place = f"Python {_dotted(here)} in {ENVIRONMENT}"
    inputs = b"".join((ROOT / name).read_bytes() for name in INPUTS) + " ".join(PEER_PACKAGES).encode()
    stamp = f"{place}\n{hashlib.sha256(inputs).hexdigest()}\n"
    found = STAMP.read_text(encoding="utf-8") if STAMP.is_file() else ""
    if found == stamp:
        return scripts
    # Only an environment that was finished, for this Python and at this place, can be brought up to date.
    if found.splitlines()[:1] != [place]:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        session.run_install(sys.executable, "-m", "virtualenv", "--quiet", str(ENVIRONMENT), external=True)
    STAMP.unlink(missing_ok=True)
    session.log("installing the environment (once; torch alone is some hundred megabytes)")
    # One call: constraints fix the version of torch before anything that depends on it is resolved.
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    # Compiling all 16,000 files of the packages would take as long as the rest; Python compiles what it imports.
    install = ["-m", "pip", "install", *quiet, "--no-compile", "--disable-pip-version-check", "-c", "constraints.txt"]
    session.run_install(str(scripts / "python"), *install, "-e", f".[{EXTRAS}]", external=True)
    shutil.rmtree(PEERS, ignore_errors=True)
    peers = [*install[:-2], "--no-deps", "--target", str(PEERS), *PEER_PACKAGES]
    session.run_install(str(scripts / "python"), *peers, external=True, success_codes=[0, 1])
    if not PEERS.is_dir():
        session.warn("the peers could not be installed: comparisons with them will be skipped")
    STAMP.write_text(stamp, encoding="utf-8")
    return scripts


def _scripts(folder: Path) -> Path:
    return folder / ("Scripts" if sys.platform == "win32" else "bin")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
