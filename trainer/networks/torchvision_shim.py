"""Import torchvision on a PyTorch build that its compiled operators do not fit.

torchvision's wheels link against CUDA libraries. On a CPU-only PyTorch their operators never
register and ``import torchvision`` stops with ``operator torchvision::nms does not exist``,
although models and weights are plain Python. Declaring the missing operators' signatures is enough
for those; the operators themselves stay unusable, and nothing here uses them.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_OPERATORS = ("nms", "qnms")

# The operators stay declared as long as this object lives.
_declared: torch.library.Library | None = None


def import_torchvision() -> ModuleType:
    """The torchvision module. Call it inside functions, in place of an import statement.

    A working installation is imported untouched; only the one known failure is repaired.
    """
    global _declared
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as err:
        if "operator torchvision::" not in str(err) or _declared is not None:
            raise
    for name in [m for m in sys.modules if m.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _declared = torch.library.Library("torchvision", "FRAGMENT")
    for operator in _OPERATORS:
        _declared.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")
