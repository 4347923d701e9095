"""Are the packages that we use safe to pass on? ``nox -s audit`` runs this on a report of pip-audit.

Ends with 1 where a package has a known vulnerability, could not be looked up (pip-audit itself calls that success, also
when it reached no service at all), or has a licence that nobody has looked at.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

# Those that allow use in a project under MIT; of MPL-2.0 only where nothing of the package is changed, as here.
ALLOWED = {
    "0BSD", "Apache", "Apache 2.0", "Apache License 2.0", "Apache Software License", "Apache-2.0", "BSD",
    "BSD 3-Clause", "BSD License", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC",
    "ISC License (ISCL)", "MIT", "MIT License", "MIT-0", "MIT-CMU", "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0", "Public Domain", "Python Software Foundation License",
    "Unlicense", "Zlib",
}  # fmt: skip
LOOKED_AT = {
    "advdef": "this project",
    "axe-playwright-python": "MIT in its file of licences; it names none",
    "docutils": "public domain, BSD and PSF; one editor mode, which nothing here uses, is under the GPL",
    "spikingjelly": "Apache-2.0 in its file of licences; it names none",
}


def complaints(report: Any) -> list[str]:
    """What is wrong by a report of pip-audit."""
    packages = report["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        return ["no package could be looked up: is the internet within reach?"]
    found = [f"{name} could not be looked up" for name in skipped]
    for package in packages:
        for known in package.get("vulns", ()):
            mended = ", ".join(known["fix_versions"]) or "no version yet"
            found.append(f"{package['name']} {package['version']} has {known['id']}, mended in {mended}")
    return found


def licence(package: Distribution) -> list[str]:
    """The licences that a package names, in the most exact of three ways; of those to choose from the first allowed."""
    told = package.metadata
    if expression := told.get("License-Expression"):
        ways = [re.split(r"\s+AND\s+", way) for way in re.split(r"\s+OR\s+", re.sub(r"[()]", "", expression))]
        parts = [[part.partition(" WITH ")[0].strip() for part in way] for way in ways]
        return next((way for way in parts if set(way) <= ALLOWED), parts[0])
    names = [line.rpartition(" :: ")[2] for line in told.get_all("Classifier", []) if line.startswith("License :: ")]
    named = [name for name in names if name != "OSI Approved"]
    return named or re.split(r"\s+AND\s+", (told.get("License") or "none").strip().splitlines()[0])


def unknown(packages: Iterable[Distribution]) -> list[str]:
    """Packages with a licence that is not allowed."""
    found = []
    for package in packages:
        name = package.metadata["Name"]
        if not set(named := licence(package)) <= ALLOWED and name.lower() not in LOOKED_AT:
            found.append(f"{name} has the licence {', '.join(named)}, which is not among those looked at")
    return sorted(found)


def main(report: Path, *folders: str) -> int:
    """Look at a report, and at the packages installed here and in further folders."""
    packages = [*importlib.metadata.distributions(), *importlib.metadata.distributions(path=list(folders))]
    for name, count in Counter(", ".join(licence(package)) for package in packages).most_common():
        print(f"{count:>4}  {name}")
    asked = json.loads(report.read_text("utf-8")) if report.is_file() else {"dependencies": []}  # it ended early
    found = complaints(asked) + unknown(packages)
    for complaint in found:
        print(f"audit: {complaint}", file=sys.stderr)
    print(f"{len(packages)} packages, {len(found)} complaints")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
