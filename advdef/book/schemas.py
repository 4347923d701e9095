"""Whether JSON fits a schema: told at once where it does, and with the place and the reason where it does not."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from importlib import resources
from typing import Any

import fastjsonschema
import jsonschema

__all__ = ["check_schema", "read_schema"]


@functools.cache
def read_schema(package: str, name: str) -> dict[str, Any]:
    """The JSON schema in the file ``name`` of a package."""
    schema: dict[str, Any] = json.loads(resources.files(package).joinpath(name).read_text("utf-8"))
    return schema


def check_schema(content: Any, package: str, name: str) -> None:
    """Raise ValueError, with where and what, for JSON that does not fit the schema in a file of a package.

    The records of the book have a hundred thousand values: fastjsonschema checks all of them in the time that
    jsonschema needs for a few. Only jsonschema knows which of several faults to name.
    """
    try:
        _compiled(package, name)(content)
    except fastjsonschema.JsonSchemaValueException as misfit:
        validator = jsonschema.Draft202012Validator(read_schema(package, name))
        wrong = jsonschema.exceptions.best_match(validator.iter_errors(content))
        if wrong is None:
            raise ValueError(f"{misfit.message:.150}") from None
        where = "/".join(map(str, wrong.absolute_path)) or "it"
        raise ValueError(f"{where}: {' '.join(wrong.message.split()):.150}") from None


@functools.cache
def _compiled(package: str, name: str) -> Callable[[Any], Any]:
    checked: Callable[[Any], Any] = fastjsonschema.compile(read_schema(package, name), use_default=False)
    return checked
