"""The house: one name for one thing, and nothing private is used from outside. Layers are held by ``nox -s lint``."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import advdef

PACKAGE = Path(advdef.__file__).parent
ROOT = PACKAGE.parent
MODULES = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def defined(tree: ast.Module) -> set[str]:
    """The names that a module binds itself, not by an import."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def public(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))
    return []


def imported(path: Path, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Modules and names that a file imports from this package, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: import from advdef by its full name"
            if (node.module or "").split(".")[0] == "advdef":
                yield from ((node.module or "", alias.name) for alias in node.names)


def test_no_two_public_things_have_one_name() -> None:
    homes = defaultdict(list)
    for path, tree in MODULES.items():
        for name in set(public(tree)) & defined(tree):
            homes[name].append(name_of(path))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}


def test_no_file_has_the_name_of_what_its_folder_exports() -> None:
    for path, tree in MODULES.items():
        if path.name == "__init__.py":
            files = {file.stem for file in path.parent.glob("*.py")} | {f.name for f in path.parent.iterdir()}
            assert files.isdisjoint(public(tree)), path


@pytest.mark.parametrize("folder", ["advdef", "notebooks"])
def test_what_is_private_stays_in_its_folder(folder: str) -> None:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module, name in imported(path, ast.parse(path.read_text("utf-8"))):
            parts = [*module.split("."), name]
            for number, part in enumerate(parts):
                inside = path.is_relative_to(ROOT.joinpath(*parts[:number]))
                assert inside or not part.startswith("_"), f"{path} imports {'.'.join(parts)}"


def test_every_module_says_what_it_is_for_and_what_is_public() -> None:
    for path, tree in MODULES.items():
        assert ast.get_docstring(tree), f"{path} has no docstring"
        if path.name != "__init__.py":
            assert public(tree), f"{path} has no __all__"
            assert set(public(tree)) <= defined(tree) | {n for m, n in imported(path, tree)}, path
