"""Pseudo-labels of every sample of a stream, remembered between passes and saved with the run.

Axis letters: n local rows, N samples of the stream.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.synchronised.collectives import all_gather_rows


class PseudoLabels(nn.Module):
    """The last pseudo-label of each of N samples, identical on all ranks; -1 = none yet.

    N is learned from the first batch, and from the state that is loaded.
    """

    labels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))

    @torch.no_grad()
    def update(self, samples: Tensor, labels: Tensor, size: int) -> Tensor:
        """Store the labels ``[n]`` of this rank's ``samples [n]``, in [0, ``size``).

        Returns the agreement between successive passes, a scalar in [0, 1]: of the global batch's
        samples with an earlier label, the share that kept it; 1 where none has an earlier label.
        """
        self.resize(size)
        rows = all_gather_rows(torch.stack([samples, labels], 1))
        samples, labels = rows[:, 0], rows[:, 1]
        before = self.labels[samples]
        known = before >= 0
        kept = (known & (before == labels)).sum()
        self.labels[samples] = labels
        return torch.where(known.any(), kept / known.sum().clamp(min=1), 1.0)

    def resize(self, size: int) -> None:
        """Make room for ``size`` samples; nothing to do when it is there."""
        if len(self.labels) != size:
            self.labels = self.labels.new_full((size,), -1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "labels" in state_dict:
            self.resize(len(state_dict[prefix + "labels"]))
        super()._load_from_state_dict(state_dict, prefix, *args)
