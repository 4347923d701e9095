"""Values in the notebook's own file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cases import each

import advdef
from advdef.book.glue import record

PREFIX = "application/papermill.record/"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the notebook file, as (data, metadata); a real shell would leave its traces in this process."""
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.interactiveshell import InteractiveShell

    seen: list[dict[str, Any]] = []

    def publish(data: dict[str, Any], metadata: dict[str, Any] | None = None, **rest: Any) -> None:
        seen.append({"data": data, "metadata": metadata})

    shell = SimpleNamespace(display_formatter=DisplayFormatter(), display_pub=SimpleNamespace(publish=publish))
    monkeypatch.setattr(InteractiveShell, "initialized", lambda: True)
    monkeypatch.setattr(InteractiveShell, "instance", lambda: shell)
    return seen


def test_a_recorded_value_has_the_form_that_glue_reads(shown: list[dict[str, Any]]) -> None:
    record("images", 500, kind="count")
    record("loss", 0.25, kind="number")
    record("gain", 0.5, kind="number", n=40)
    record("verdict", "partly", kind="text")
    record("note", "anything")
    assert [s["metadata"]["scrapbook"] for s in shown] == [
        {"name": name, "mime_prefix": PREFIX} for name in ("images", "loss", "gain", "verdict", "note")
    ]
    assert [s["metadata"]["advdef"] for s in shown] == [
        {"kind": "count", "value": 500},
        {"kind": "number", "value": 0.25},
        {"kind": "number", "value": 0.5, "n": 40},
        {"kind": "text", "value": "partly"},
        {"kind": "info", "value": "anything"},
    ]
    # all under the prefix, so that nothing is visible where it is recorded
    assert [s["data"] for s in shown] == [
        {f"{PREFIX}text/plain": text} for text in ("500", "0.25", "0.5", "'partly'", "'anything'")
    ]
    json.dumps(shown)


def test_hits_are_kept_image_by_image_and_shown_as_their_share(shown: list[dict[str, Any]]) -> None:
    for hits in ([1, 1, 0, 1], [1], [0] * 5, [0, 0, 0, 0, 1, 0, 1, 1, 1]):
        record("robust", torch.tensor(hits).bool(), kind="hits")
    assert [s["metadata"]["advdef"] for s in shown] == [
        {"kind": "hits", "value": 0.75, "n": 4, "hits": "d"},
        {"kind": "hits", "value": 1.0, "n": 1, "hits": "1"},
        {"kind": "hits", "value": 0.0, "n": 5, "hits": "00"},
        {"kind": "hits", "value": 4 / 9, "n": 9, "hits": "017"},
    ]
    assert shown[0]["data"] == {f"{PREFIX}text/plain": "0.75"}
    json.dumps(shown)


def test_a_recorded_value_is_what_myst_nb_writes(shown: list[dict[str, Any]]) -> None:
    glue = pytest.importorskip("myst_nb").glue
    glue("x", 0.5, display=False)
    record("x", 0.5)
    theirs, ours = shown
    assert ours["data"] == theirs["data"]
    assert ours["metadata"]["scrapbook"] == theirs["metadata"]["scrapbook"]


def test_a_table_is_recorded_with_its_display(shown: list[dict[str, Any]]) -> None:
    record("table", pd.DataFrame({"a": [1]}))
    assert set(shown[0]["data"]) == {f"{PREFIX}text/plain", f"{PREFIX}text/html"}
    assert "<table" in shown[0]["data"][f"{PREFIX}text/html"]
    assert "advdef" not in shown[0]["metadata"]


@each(
    ("value", "options", "error", "message"),
    [
        (0.5, {"kind": "numbre"}, ValueError, "hits, count, number, text, info"),
        (0.5, {"kind": "count"}, TypeError, r"record int\(value\), .* not float"),
        (True, {"kind": "count"}, TypeError, r"int\(value\)"),
        (torch.tensor(5), {"kind": "count"}, TypeError, r"int\(value\), .*Tensor"),
        (np.int64(5), {"kind": "count"}, TypeError, r"int\(value\), .*int64"),
        (5, {"kind": "text"}, TypeError, r"str\(value\), .*int"),
        (np.str_("yes"), {"kind": "text"}, TypeError, r"str\(value\)"),
        (np.float64(0.15), {"kind": "number"}, TypeError, r"float\(value\), .*float64"),
        (torch.tensor(0.15), {"kind": "number"}, TypeError, r"float\(value\)"),
        (True, {"kind": "number"}, TypeError, r"float\(value\)"),
        (np.float64(0.15), {}, TypeError, r"float\(value\)"),
        (np.float32(0.15), {}, TypeError, r"float\(value\)"),
        (torch.tensor(0.15), {}, TypeError, r"float\(value\)"),
        (float("nan"), {"kind": "number"}, ValueError, "nan is no number"),
        (float("-inf"), {"kind": "number"}, ValueError, "-inf is no number"),
        (float("inf"), {}, ValueError, "inf is no number"),
        (0.5, {"kind": "hits"}, TypeError, "boolean tensor"),
        ([True, False], {"kind": "hits"}, TypeError, "boolean tensor"),
        (torch.ones(3), {"kind": "hits"}, TypeError, "boolean tensor"),
        (torch.ones(3, 1).bool(), {"kind": "hits"}, TypeError, "boolean tensor"),
        (torch.ones(0).bool(), {"kind": "hits"}, ValueError, "no hits"),
    ],
)
def test_a_value_that_no_test_could_compare_is_refused(
    shown: list[dict[str, Any]], value: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=f"^it: .*{message}"):
        record("it", value, **options)
    assert not shown


def test_recording_outside_a_notebook_does_nothing(tmp_path: Path) -> None:
    program = (
        "from advdef.book.glue import record\n"
        "record('x', 0.5, kind='number')\n"
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "assert not InteractiveShell.initialized()\n"
    )
    root = Path(advdef.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
