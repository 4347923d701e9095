"""Keys by content: what differs has another key, in whatever it differs and wherever its code lives."""

from __future__ import annotations

import copy
import enum
import functools
import importlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import types
import unittest.mock
import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import each
from torch import Tensor, nn

import advdef
from advdef.papers.snn import cpu as _cpu
from advdef.papers.snn import fused as _fused
from advdef.papers.trn.study import Restorers
from advdef.store import closure, identity, key
from advdef.store.bytecode import is_library

# Content


@dataclass
class Setting:
    rate: float
    names: list[str]


class Plain:
    def __init__(self, value: object) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


Point = namedtuple("Point", "x y")


class Net(nn.Module):
    """A network with an attribute that its print and its weights do not hold."""

    def __init__(self, by: object = 1, weight: float = 0.5) -> None:
        super().__init__()
        self.by, self.layer = by, nn.Linear(2, 2)
        for parameter in self.parameters():
            nn.init.constant_(parameter, weight)
        self.register_buffer("hidden", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.by


def changed(model: nn.Module, change: Callable[[Any], object]) -> nn.Module:
    change(model)
    return model


def add(x: int, y: int = 1) -> int:
    return x + y


def tied(layer: nn.Linear, *, copied: bool = False) -> nn.Sequential:
    """Two layers that have the same weights, or equal ones."""
    other = nn.Linear(2, 2)
    other.load_state_dict(layer.state_dict())
    if not copied:
        other.weight = layer.weight
    return nn.Sequential(layer, other)


def scripted(by: int, *, frozen: bool = False) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        script = torch.jit.script(Net(by).eval())
        return torch.jit.freeze(script) if frozen else script


def closing(over: object) -> Callable[[], object]:
    return lambda: over


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_attribute(value: int) -> Callable[[], None]:
    def f() -> None: ...

    f.rate = value  # type: ignore[attr-defined]
    return f


LAYER = nn.Linear(2, 2)
LONG = [0.0] * 5_000
TELLING = {  # what prints alike, or nearly so
    "tensor, one of many": (torch.tensor(LONG), torch.tensor([*LONG[:2_500], 1.0, *LONG[2_501:]])),
    "tensor, fifth digit": (torch.tensor([0.123451]), torch.tensor([0.123452])),
    "array, one of many": (np.array(LONG), np.array([*LONG[:2_500], 1.0, *LONG[2_501:]])),
    "array, fifth digit": (np.array([0.12345678901]), np.array([0.12345678902])),
    "in a list": ([torch.tensor([0.123451])], [torch.tensor([0.123452])]),
    "deep in a dict": ({"a": [{"b": np.array(0.12345678901)}]}, {"a": [{"b": np.array(0.12345678902)}]}),
    "in a module": (Net(torch.tensor([0.123451])), Net(torch.tensor([0.123452]))),
    "dtype": (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
    "bfloat16": (torch.tensor(1.0).bfloat16(), torch.tensor(1.0078125).bfloat16()),
    "bool": (torch.tensor([True]), torch.tensor([False])),
    "uint8 or bool": (torch.tensor([True]), torch.tensor([1], dtype=torch.uint8)),
    "shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "empty tensors": (torch.zeros(0, 2), torch.zeros(2, 0)),
    "tensor or array": (torch.zeros(2), np.zeros(2, np.float32)),
    "transposed": (torch.arange(4).view(2, 2), torch.arange(4).view(2, 2).T),
    "objects in an array": (np.array([1, None], object), np.array([2, None], object)),
    "True or 1": (True, 1),
    "1 or 1.0": (1, 1.0),
    "zero's sign": (0.0, -0.0),
    "text or bytes": ("a", b"a"),
    "list or tuple": ([1], (1,)),
    "where a list ends": ([["a"], "b"], [["a", "b"]]),
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "ordered dict": (OrderedDict(a=1), OrderedDict(a=2)),
    "set": ({1, 2}, {1, 3}),
    "path": (Path("a"), Path("b")),
    "enum": (Colour.RED, Colour.BLUE),
    "torch's names": (torch.float32, torch.float64),
    "named tuple": (Point(1, 2), Point(1, 3)),
    "dataclass": (Setting(1, ["a"]), Setting(1, ["b"])),
    "object": (Plain(1), Plain(2)),
    "slots": (Slotted(1), Slotted(2)),
    "weights": (Net(), Net(weight=0.6)),
    "hidden buffer": (Net(), changed(Net(), lambda m: m.hidden.add_(1))),
    "hook": (Net(), changed(Net(), lambda m: m.register_forward_hook(lambda *x: None))),
    "hooks": tuple(changed(Net(), lambda m, f=f: m.register_forward_pre_hook(f)) for f in (print, repr)),
    "method of an instance": (Net(1).forward, Net(2).forward),
    "replaced forward": (Net(), changed(Net(), lambda m: setattr(m, "forward", m.layer.forward))),
    "shared module": tuple(nn.Sequential(m, n) for m in [Net()] for n in (m, Net())),
    "shared weights": tuple(tied(copy.deepcopy(LAYER), copied=copied) for copied in (True, False)),
    "script": (scripted(2), scripted(3)),
    "frozen script": (scripted(2, frozen=True), scripted(3, frozen=True)),
    "compiled": tuple(torch.compile(Net(by), backend="eager") for by in (2, 3)),
    "partial": (partial(add, y=1), partial(add, y=2)),
    "partial's function": (partial(add), partial(closing)),
    "lambda": (lambda x: x + 1, lambda x: x + 2),
    "default": (lambda x=1: x, lambda x=2: x),
    "closure": (closing(np.array(1.0)), closing(np.array(2.0))),
    "attribute of a function": (with_attribute(1), with_attribute(2)),
    "wrapped": (functools.lru_cache(add), functools.lru_cache(closing)),
    "torch generator": (seeded(0), seeded(1)),
    "numpy generator": (np.random.default_rng(0), np.random.default_rng(1)),
    "class or object": (Plain, Plain(1)),
    "library's classes": (nn.ReLU, nn.Tanh),
    "built-in functions": (torch.relu, torch.tanh),
}


@each("name", TELLING)
def test_what_differs_has_another_key(name: str) -> None:
    one, other = TELLING[name]
    assert identity(one) != identity(other)
    assert key("x", part=one).digest != key("x", part=other).digest


IMAGES = torch.arange(96.0).view(2, 3, 4, 4)
SAME: dict[str, tuple[object, object]] = {
    "copy": (IMAGES, IMAGES.clone()),
    "channels last": (IMAGES, IMAGES.to(memory_format=torch.channels_last)),
    "every other": (IMAGES[:, ::2], IMAGES[:, ::2].clone()),
    "Fortran's order": (IMAGES.numpy(), np.asfortranarray(IMAGES.numpy())),
    "set": ({"a", "b", "c"}, {"c", "b", "a"}),
    "modules": (Net(), Net()),
    "mode and grad": (Net(), Net().eval().requires_grad_(False)),
    "scripts": (scripted(2), scripted(2)),
    "dataclass": (Setting(1, ["a"]), Setting(1, ["a"])),
    "closures": (closing([1]), closing([1])),
    "order of a partial's settings": (partial(add, x=1, y=2), partial(add, y=2, x=1)),
    "the same module in two settings": (
        {"a": (m := Net()), "b": [m, m.forward]},
        {"a": Net(), "b": [n := Net(), n.forward]},
    ),
    "the same part twice": ([x := [1, 2], x], [[1, 2], [1, 2]]),
    "nan": (float("nan"), float("nan")),
}


@each("name", SAME)
def test_equal_content_has_an_equal_key(name: str) -> None:
    one, other = SAME[name]
    assert identity(one) == identity(other)
    assert key("x", part=one) == key("x", part=other)


def test_parts_that_hold_themselves_end() -> None:
    ring: list[object] = [1]
    ring.append(ring)
    network = Net()
    network.whole = [network, network.forward]
    for part in (ring, network, sys.modules[__name__]):
        assert identity(part) == identity(part)


def test_an_exported_program_counts_by_its_content() -> None:
    first, same, other = (torch.export.export(Net(by).eval(), (torch.zeros(1, 2),)) for by in (2, 2, 3))
    assert identity(first) == identity(same) != identity(other)
    assert identity(first.module()) == identity(same.module()) != identity(other.module())


def test_a_key_consists_of_kind_parts_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    first = key("weights", seed=1, model=Net())
    assert first == key("weights", model=Net(), seed=1)
    assert len(first.digest) == 64
    assert first.roots == (f"{__name__}:Net",)
    others = [
        key("pairs", seed=1, model=Net()),
        key("weights", seed=2, model=Net()),
        key("weights", seeds=1, model=Net()),
    ]
    monkeypatch.setattr(torch, "__version__", "0.0.0")
    others.append(key("weights", seed=1, model=Net()))
    monkeypatch.undo()
    torch.set_num_threads(torch.get_num_threads() + 1)
    try:
        others.append(key("weights", seed=1, model=Net()))
    finally:
        torch.set_num_threads(torch.get_num_threads() - 1)
    assert len({k.digest for k in [first, *others]}) == 6


@each(
    "part", [threading.Lock(), (x for x in "a"), sys.stderr, np.frompyfunc(abs, 1, 1)], ids=lambda p: type(p).__name__
)
def test_a_part_without_content_is_named(part: object) -> None:
    for given in (part, [part], {"rate": [part]}, Plain(part), Net(part), closing(part), partial(add, part)):
        with pytest.raises(TypeError, match=rf"^settings.*: {type(part).__name__} has no content .*; pass what it is"):
            key("x", settings=given)
    with pytest.raises(TypeError, match=r"^settings, \['rate'\], \[1\]: "):
        key("x", settings={"rate": [1, part]})


PROGRAM = """
import torch, numpy as np
from functools import partial
from torch import nn
from advdef import store
from advdef.training import train_at
from advdef.models import SmallResNet
import theirs

scale = {"b", "a", "c"}

class Own(nn.Module):
    def forward(self, x):
        return theirs.helper(x) if x in {"p", "q", "r"} else len(scale)

torch.manual_seed(0)
parts = {
    "set": {"x", "y", "z"}, "model": SmallResNet((1, 28, 28), 10, width=4), "train": partial(train_at, eps=0.1),
    "own": Own(), "array": np.arange(5), "lambda": lambda x: (x, theirs.RATE), "rng": np.random.default_rng(0),
}
print(store.key("x", **parts).digest)
"""
THEIRS = "RATE = 0.1\n\ndef helper(x):\n    return 2 * x\n"
IN_TURN = """
import importlib, json, pathlib, sys

folder, programs = json.loads(sys.stdin.read())
sys.path.insert(0, folder)
for program, theirs in programs:
    pathlib.Path(folder, "theirs.py").write_text(theirs)
    sys.modules.pop("theirs", None)
    importlib.invalidate_caches()
    exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
"""


def test_another_process_finds_the_same_key_and_sees_changed_code(tmp_path: Path) -> None:
    def asked(seed: str, *programs: tuple[str, str]) -> list[str]:
        """The keys of programs, each with the text of their module, all in one process: starting it is what is dear."""
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = str(Path(advdef.__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", IN_TURN],
            input=json.dumps([str(tmp_path), programs]),
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    changed = [
        (PROGRAM, THEIRS.replace("return 2 * x", "return 3 * x")),
        (PROGRAM, THEIRS.replace("0.1", "0.2")),
        (PROGRAM.replace("return theirs.helper(x) if", "return -theirs.helper(x) if"), THEIRS),
        (PROGRAM.replace('"b", "a"', '"b"'), THEIRS),
    ]
    first, *others = asked("0", (PROGRAM, THEIRS), *changed)
    assert asked("1", ("# a comment\n\n" + PROGRAM, THEIRS)) == [first]
    assert len(others) == 4
    assert len({first, *others}) == 5


# Code

SOURCE = '''
"""A module."""

import functools
import logging

import torch
from torch import nn

LIMIT = 3
"""What it is."""
TABLE = {"a": [1, 2]}
logger = logging.getLogger("x")


def helper(x):
    return x + 1


def wrapped(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)
    return inner


@wrapped
def decorated(x):
    return x + 10


@torch.no_grad()
def without(x):
    return x + 20


@functools.lru_cache
def cached(x):
    return x + 30


class Base:
    offset = 5

    def shift(self, x):
        return x - self.offset


class Other(Base):
    @staticmethod
    def still(x):
        return x * 40

    @property
    def twice(self):
        return 50

    @functools.cached_property
    def kept(self):
        return 60


class Rule(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * 70


class Thing(nn.Module):
    """A thing."""

    def forward(self, x, *, by=2):
        """Twice."""
        # a comment
        logger.info("x")
        x = helper(x) * by + LIMIT + TABLE["a"][0]
        x = decorated(x) + without(x) + cached(x) + Other().shift(x)
        return Rule.apply(x) if x else [self.late(y) for y in range(80)]

    def late(self, x):
        """Later."""
        class Inner:
            """Within."""
            value = 90
        def again():
            """Again."""
            return 100
        return (lambda y: y + unused)(x)


async def unused():
    """Later."""
    return LIMIT + 110


def nobody(x):
    return x + 120
'''


@pytest.fixture
def code(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The code of a key of the class Thing in a module with this source."""

    def of(source: str) -> str:
        made_up = types.ModuleType("made_up")
        exec(compile(source, "<cell>", "exec"), made_up.__dict__)
        monkeypatch.setitem(sys.modules, "made_up", made_up)
        found = key("x", part=made_up.Thing)
        assert key("x", part=made_up.Thing()).code == found.code
        assert found.roots == ("made_up:Thing",)
        return found.code

    return of


@each(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('"""A module."""\n', ""),
        ('    """A thing."""\n', '    """A thing\n\n    of beauty.\n    """\n'),
        ('        """Twice."""\n', ""),
        ('            """Within."""\n', ""),
        ('            """Again."""\n', ""),
        ('"""Again."""', '"""None."""'),
        ('"""What it is."""', '"""Something else."""'),
        ("        # a comment\n", ""),
        ("x - self.offset", "(x\n                - self.offset)"),
        ("x + 120", "x + 121"),  # nobody calls it
    ],
)
def test_words_layout_and_other_code_change_no_key(code: Callable[[str], str], old: str, new: str) -> None:
    assert SOURCE.count(old) == 1
    assert code(SOURCE.replace(old, new)) == code(SOURCE)


@each(
    ("old", "new"),
    [
        ("by=2", "by=3"),
        ("LIMIT = 3", "LIMIT = 4"),
        ("[1, 2]", "[1, 3]"),
        ("x + 1\n", "x + 2\n"),
        ("x + 1\n", "x - 1\n"),
        ("function(*args)", "-function(*args)"),
        *[(f"{n}", f"{n + 1}") for n in (10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110)],
        ("offset = 5", "offset = 6"),
        ("x - self.offset", "x + self.offset"),
        ("class Other(Base)", "class Other(Base, dict)"),
        ("if x else", "if not x else"),
        ("helper(x) * by", "helper(by) * x"),
    ],
)
def test_code_that_is_reached_changes_the_key(code: Callable[[str], str], old: str, new: str) -> None:
    assert old in SOURCE
    assert code(SOURCE.replace(old, new, 1)) != code(SOURCE)


def test_a_global_without_content_counts_by_its_type(code: Callable[[str], str]) -> None:
    def with_logger(text: str) -> str:
        return code(SOURCE.replace('logging.getLogger("x")', text))

    lock = with_logger('__import__("threading").Lock()')
    assert lock == with_logger('__import__("threading").Lock()')
    assert lock != with_logger('(x for x in "a")')


def test_code_of_ones_own_modules_counts_and_that_of_the_book_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By any way of importing: at the top or in a function, a name or a module, absolute or relative."""
    package = tmp_path / "mine"
    (package / "deep").mkdir(parents=True)
    files = {
        "__init__.py": "",
        "deep/__init__.py": "",
        "top.py": "def f(): return 1\ndef g(): return 1",
        "late.py": "from mine import deep\ndef f(): return 1",
        "deep/one.py": "def f(): return 1",
        "deep/two.py": "from . import one\ndef f(): return 1",
        "deep/three.py": "def f(): return 1",
        "main.py": """
            import mine.top
            from advdef import cli
            from advdef.book import records
            from mine import top as renamed

            def ask():
                from mine.late import f
                from .deep import one
                from .deep.two import f as g
                import mine.deep.three as three
                import mine_that_is_missing
                cli.main(records)
                return mine.top.f() + f() + one.f() + g() + three.f() + renamed.f()
        """,
    }
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def forget() -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
            del sys.modules[name]

    def asked(**edits: str) -> str:
        forget()
        for name, text in files.items():
            edit = edits.get(name.removesuffix(".py").replace("/", "_"), text)
            (package / name).write_text(textwrap.dedent(edit))
        importlib.invalidate_caches()
        return key("x", ask=importlib.import_module("mine.main").ask).code

    first = asked()
    assert asked() == first
    for name in ("top", "late", "deep_one", "deep_two", "deep_three"):
        text = files[f"{name.replace('_', '/')}.py"]
        assert asked(**{name: text.replace("f(): return 1", "f(): return 2")}) != first, name
    assert asked(top=files["top.py"].replace("g(): return 1", "g(): return 2")) == first  # nobody calls it
    monkeypatch.setattr(advdef.cli, "main", lambda records: None)
    assert asked() == first
    forget()  # other tests have modules of this name


def test_code_that_is_imported_within_a_function_of_the_package_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key("x", part=_fused.fire).code
    for name in ("gradient", "spikes", "_slopes", "_back", "_BLOCK"):
        with monkeypatch.context() as patch:
            patch.setattr(_cpu, name, lambda *given: None)
            assert key("x", part=_fused.fire).code != before, name
    assert key("x", part=_fused.fire).code == before


@each(
    ("name", "library"),
    [
        ("torch.nn", True), ("numpy", True), ("json", True), ("os.path", True), ("builtins", True), ("sys", True),
        ("_pytest.main", True), ("advdef.cli", True), ("advdef.store", True), ("advdef.book.records", True),
        ("advdef.training.loop", False), ("advdef.papers.snn.cpu", False), ("advdef.notebooks_of_mine", False),
        ("__main__", False), (__name__, False), ("nowhere", False),
    ],
)  # fmt: skip
def test_which_modules_are_libraries(name: str, library: bool) -> None:
    assert is_library(name) is library


SCRIPT = """
import functools
import torch

TABLE = {"rates": [1, 2]}

def innermost(x, by=1):
    return x

def inner(x):
    return innermost(x) + len(TABLE)

@torch.no_grad()
def wrapped(x):
    return inner(x)

class Rule:
    bound = 3
    def apply(self, x):
        return wrapped(x) * self.bound

def outer(x):
    return Rule().apply(x) + calls(x)

calls = functools.partial(inner)
"""


def test_what_is_known_of_code_is_forgotten_when_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is asked for again is that of a process which has not asked before."""
    module: Any = types.ModuleType("scripted")
    monkeypatch.setitem(sys.modules, "scripted", module)
    exec(compile(SCRIPT, "<cell>", "exec"), vars(module))

    def asked() -> str:
        again = key("x", part=module.outer).code
        monkeypatch.setattr(closure, "_known", {})
        assert key("x", part=module.outer).code == again
        return again

    def redefined(line: str) -> None:
        exec(compile(line, "<cell>", "exec"), vars(module))

    edits: list[Callable[[], object]] = [
        lambda: redefined("def innermost(x, by=1):\n    return 2 * x"),
        lambda: redefined("def innermost(x, by=2):\n    return 2 * x"),
        lambda: setattr(module.innermost, "__defaults__", (3,)),
        lambda: setattr(module.innermost, "__code__", (lambda x, by: x - by).__code__),
        lambda: setattr(module.innermost, "rate", 1),
        lambda: module.TABLE["rates"].append(3),
        lambda: module.TABLE["rates"].__setitem__(0, True),  # which equals 1
        lambda: module.TABLE.update(more=4),
        lambda: module.TABLE["rates"].extend([[], None]),
        lambda: module.TABLE["rates"][-2].append(module.TABLE["rates"].pop()),  # the same objects, one further in
        lambda: setattr(module, "TABLE", {"a", "b"}),
        lambda: module.TABLE.add("c"),  # a set shows no parts
        lambda: setattr(module.Rule, "bound", 5),
        lambda: setattr(module.Rule, "apply", lambda self, x: x),
        lambda: setattr(module.Rule, "__init__", lambda self: None),
        lambda: setattr(module, "calls", functools.partial(module.wrapped)),
        lambda: redefined("Rule = type('Rule', (Rule,), {'__module__': 'scripted'})"),
        lambda: redefined("class Rule:\n    def apply(self, x):\n        return x"),
        lambda: redefined("def outer(x):\n    return innermost(x)"),
        lambda: delattr(module, "innermost"),
    ]
    found = [asked()]
    for number, edit in enumerate(edits):
        assert asked() == found[-1]
        edit()
        found.append(asked())
        assert found[-1] not in found[:-1], number


def test_code_that_is_known_is_not_taken_apart_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages ask for hundreds of keys of the same code."""
    monkeypatch.setattr(closure, "_known", {})
    found = []
    for _ in range(2):
        with unittest.mock.patch.object(closure, "facts", wraps=closure.facts) as looked:
            found.append((key("x", part=Restorers).code, looked.call_count))
    (first, dear), (again, cheap) = found
    assert again == first
    assert cheap < dear / 10
