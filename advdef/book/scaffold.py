"""The files of a further defence, made from templates: its module, its claims, its notebook, its place in the book."""

from __future__ import annotations

import builtins
import keyword
import re
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal, get_args

import yaml

from advdef.book.notebookfile import read_pair, write
from advdef.book.repository import InputError, Repository
from advdef.store.files import replacing

__all__ = ["Template", "new_defence"]

Template = Literal["deterministic", "random", "trained"]
"""What a defence does: always the same to an image, something else in each pass, or what it has learned."""

_PAPERS = range(1, 20)  # numbers of notebooks about a defence; the pages from 20 on are about attacks and comparisons
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}  # of Windows
_ENTRY = re.compile(r"^( *- file: )notebooks/[01]\d_\w+\n", re.MULTILINE)


def new_defence(repository: Repository, name: str, *, kind: str = "deterministic") -> list[Path]:
    """Write a working example of a kind under that name, and return the files that are new or changed.

    Everything is checked before anything is written. Raises `InputError` for an unknown kind, for a name that is no
    lower-case identifier, is reserved or taken, and where no number is left.
    """
    root = repository.root
    if kind not in get_args(Template):
        raise InputError(f"no kind {kind!r} of defences; there are {', '.join(get_args(Template))}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise InputError(f"{name!r} cannot name a module; use lower-case letters, digits and _, such as my_defence")
    module, claims, toc = (
        root / path for path in (f"advdef/defenses/{name}.py", "advdef/claims.yml", "_toc.yml")
    )  # fmt: skip
    taken_by = [path for path in (module, repository.notebooks.get(name)) if path is not None and path.exists()]
    if taken_by:
        raise InputError(f"{name!r} is taken by {taken_by[0].relative_to(root)}; choose another name")
    if said := _reserved(root, name):
        raise InputError(f"{name!r} is {said}; choose another name")
    taken = {int(path.stem[:2]) for path in repository.notebooks.values()}
    number = max((n for n in taken if n in _PAPERS), default=0) + 1
    contents = toc.read_text(encoding="utf-8")
    entries = list(_ENTRY.finditer(contents))
    if number not in _PAPERS or not entries:
        raise InputError("there is no place for a further notebook: see the numbers in notebooks/ and _toc.yml")
    page = root / "notebooks" / f"{number:02}_{name}.py"
    address = str(yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"])
    made_by, imported = {
        "trained": (
            "trained(\n        partial(NewDefence, network, channels=data.shape[0]), train_new_defence, data,\n"
            '        seed=seed, epochs=P["epochs"],\n    ).model',
            "NewDefence, train_new_defence",
        ),
    }.get(kind, ("NewDefence(network)", "NewDefence"))
    randomised = "the noise of each pass" if kind == "random" else "nothing"
    words = {
        "THE_MAKER": made_by, "THE_IMPORTS": imported, "THE_DRAWS": randomised, "new_defence": name,
        "NewDefence": _class_name(name), "NEW_DEFENCE": name.upper(), "THE_ADDRESS": address,
    }  # fmt: skip

    last = entries[-1]
    line = f"{last[1]}notebooks/{page.stem}\n"
    made = {
        module: _filled(f"{kind}.py", words),
        claims: claims.read_text(encoding="utf-8") + _filled("claims.yml", words),
        page: _filled("notebook.py", words),
        toc: contents[: last.end()] + line + contents[last.end() :],
    }
    for path, text in made.items():
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    notebook = page.with_suffix(".ipynb")
    write(read_pair(notebook), notebook)
    return [*made, notebook]


def _reserved(root: Path, name: str) -> str:
    """What else bears the name, or nothing."""
    if keyword.issoftkeyword(name) or hasattr(builtins, name):
        return "a word of Python"
    if name in sys.stdlib_module_names:
        return "a module of Python"
    if name in _DEVICES:
        return "no file name on Windows"
    package = root / "advdef"
    for path in sorted(package.rglob("*.py")):
        if name in path.relative_to(package).with_suffix("").parts and not path.is_relative_to(package / "defenses"):
            return f"taken by {path.relative_to(root)}"
        if (
            found := re.search(rf"^(?:class|def) {_class_name(name)}\b", path.read_text("utf-8"), re.MULTILINE)
        ) is not None:
            return f"taken: {path.relative_to(root)} has a {found[0]}"
    claims = (package / "claims.yml").read_text(encoding="utf-8")
    return "taken by claims of another page" if f"- id: {name.upper()}-" in claims else ""


def _class_name(name: str) -> str:
    """CamelCase.

    >>> _class_name("my_defence")
    'MyDefence'
    """
    return "".join(part.capitalize() for part in name.split("_"))


def _filled(template: str, words: Mapping[str, str]) -> str:
    text = resources.files("advdef.book").joinpath("templates", f"{template}.txt").read_text("utf-8")
    for word, replacement in words.items():
        text = text.replace(word, replacement)
    return text
