"""Values of a run in the notebook's own file: prose pastes them, and the regression test compares them."""

import math
from typing import Any, Literal

from advdef.devices import exact
from advdef.evaluation.results import pack_hits

__all__ = ["Kind", "record"]

Kind = Literal["hits", "count", "number", "text", "info"]
"""How a regression test compares a value, by how many images flip, exactly, by a tolerance, exactly, not at all."""

_PLAIN: dict[str, tuple[type, ...]] = {
    "count": (int,),
    "number": (float, int),
    "text": (str,),
    "info": (bool, int, float, str),
}


def record(name: str, value: Any, *, kind: Kind = "info", n: int | None = None) -> None:
    """Emit a value so that prose can paste it, a test can compare it, and it stays in the notebook file.

    The output has the form that myst-nb's ``glue`` writes, so ``{glue:text}`name` `` works; it needs IPython alone,
    does nothing visible, and nothing at all outside a notebook. "hits" are a boolean tensor (N,), N > 0, of what is
    right of N images: all are kept, and prose pastes their share, a float. The other kinds take plain values, of
    Python's own types alone: a "count" is an int, a "number" a float or an int, a "text" a str. "info" also takes
    objects with a rich display (a data frame, say), which are recorded with it. ``n`` says of how many images a
    "number" is a mean, so that a test allows it to move by what an image or two do. Raises TypeError for another type,
    which names the conversion, and ValueError for an unknown kind, no image, and a number that is not finite.
    """
    if kind != "hits" and kind not in _PLAIN:
        raise ValueError(f"{name}: no kind {kind!r}; there are hits, {', '.join(_PLAIN)}")
    kept: dict[str, Any] = {}
    if kind == "hits":
        try:
            packed = pack_hits(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
        value = float(exact(value).mean())
        kept = {"value": value, **packed}
    elif kind != "info" or _is_scalar(value):
        if type(value) not in _PLAIN[kind]:
            conversion = "float" if kind == "info" else _PLAIN[kind][0].__name__
            raise TypeError(f"{name}: record {conversion}(value), a plain Python value, not {type(value).__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name}: {value} is no number to record")
        kept = {"value": value} if n is None else {"value": value, "n": n}
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display

    formatter = InteractiveShell.instance().display_formatter if InteractiveShell.initialized() else None
    if formatter is None:
        return
    data, _ = formatter.format(value)
    metadata: dict[str, Any] = {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}}
    if kept:
        metadata["advdef"] = {"kind": kind, **kept}
    bundle = {f"application/papermill.record/{mime}": content for mime, content in data.items()}
    display(bundle, raw=True, metadata=metadata)


def _is_scalar(value: Any) -> bool:
    """Whether a value is meant as one number, flag or text, of whatever library."""
    return isinstance(value, bool | int | float | str) or getattr(value, "shape", None) == ()
