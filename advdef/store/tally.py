"""How much of a run came from stored results: counted by whoever reads them, told in a record's provenance."""

__all__ = ["note", "total"]

_seconds: list[float] = []


def note(seconds: float) -> None:
    """Count one stored result that was read instead of made; `seconds` is what it had taken when it was made."""
    _seconds.append(seconds)


def total() -> tuple[int, float]:
    """How many stored results this process has read, and the seconds that they had taken.

    >>> before, _ = total()
    >>> note(2.5)
    >>> total()[0] - before
    1
    """
    return len(_seconds), sum(_seconds)
