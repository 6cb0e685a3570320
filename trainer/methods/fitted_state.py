"""Tensors that a fit leaves behind, of sizes known only then, saved with the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class FittedState(nn.Module):
    """Named tensors, none before :meth:`store`; loading takes over those of the saved state.

    ``fitted``, a bool scalar, says whether there are any.
    """

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))

    def __bool__(self) -> bool:
        return bool(self.fitted)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def store(self, values: Mapping[str, Tensor]) -> None:
        """Replace everything by ``values``, whose dtypes are kept."""
        for name in [n for n in self._buffers if n != "fitted"]:
            del self._buffers[name]
        for name, value in values.items():
            self.register_buffer(name, value.detach().to(self.fitted.device, copy=True))
        self.fitted.fill_(bool(values))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
        self.store({k: v for k, v in found.items() if k != "fitted"})
        super()._load_from_state_dict(state_dict, prefix, *args)
