"""Reading numbers back from a GPU without a pause in its work."""

from __future__ import annotations

import torch
from torch import Tensor


class ReadBack:
    """The values of a tensor, on their way since construction.

    On a GPU the copy is queued behind the work that computes the values. :meth:`tolist` waits for
    the copy only, not for work that was queued later.
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._arrived = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event(blocking=True)  # the thread that waits for it sleeps
            self._arrived.record()

    def tolist(self) -> list[float]:
        """The values; waits until they are here."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()
