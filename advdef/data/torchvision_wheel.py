"""Import torchvision, also where its compiled operators cannot load."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

__all__ = ["torchvision"]

# A library takes its operators with it when it is collected, so this reference must live as long as the process.
_library: torch.library.Library | None = None


def torchvision() -> ModuleType:
    """The torchvision package, imported on first use.

    torchvision's PyPI wheel is linked against CUDA builds of torch. Next to a CPU-only torch its compiled operators
    cannot load, and the import fails while it registers shape functions for two of them. Declaring these two is enough
    to make data sets, models and transforms usable; calling the operators themselves still fails.

    Raises ImportError when torchvision is not installed.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise ImportError("torchvision is not installed; install it with: pip install torchvision") from error
    except RuntimeError as error:
        if "torchvision::" not in str(error) or "does not exist" not in str(error):
            raise
    # What the failed import left behind would be reused half-initialised.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    if _library is None:
        _library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call, unused-ignore]
        for operator in ("nms", "qnms"):
            schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            _library.define(schema)  # type: ignore[no-untyped-call, unused-ignore]
    return importlib.import_module("torchvision")
