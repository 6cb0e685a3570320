"""Kept outputs of a trunk's frozen stages, read in place of pixels.

They lie in parts of equal size, as `.npy` files that are mapped into memory, so all processes of a
machine share one copy. :mod:`trainer.inputs.feature_store` computes them.

Axis letters: N samples of a store, n samples of a batch, V views, A×B×C one picture's features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """The features of a stream's samples under one transform."""

    rows: np.ndarray  # int64 [N], rows in the manifest, in the order of the store
    parts: tuple[Path, ...]  # arrays [samples, V, A, B, C], in order
    part_samples: int  # samples of every part but the last

    def read(self, rows: np.ndarray, views: np.ndarray) -> np.ndarray:
        """Features [n, v, A, B, C] of samples int64 [n] by manifest row, of their views [n, v]."""
        places = self._order[np.searchsorted(self.rows, rows, sorter=self._order)]
        part, inside = np.divmod(places, self.part_samples)
        first = self._part(0)
        out = np.empty((*views.shape, *first.shape[2:]), dtype=first.dtype)
        for number in np.unique(part).tolist():
            here = np.flatnonzero(part == number)
            out[here] = self._part(number)[inside[here, None], views[here]]
        return out

    def __reduce__(self) -> tuple[Any, ...]:
        # Each process maps the parts by itself; an array that is mapped would be sent as a copy.
        return StoredFeatures, (self.rows, self.parts, self.part_samples)

    def _part(self, number: int) -> np.ndarray:
        if number not in self._held:
            self._held[number] = np.load(self.parts[number], mmap_mode="r", allow_pickle=False)
        return self._held[number]

    @cached_property
    def _held(self) -> dict[int, np.ndarray]:
        """The parts that are mapped. They are this object's, since a later run in this process may
        find a part damaged and compute it again under the same name."""
        return {}

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.rows, kind="stable")


FeatureCopies = Callable[[bool], tuple[StoredFeatures, ...]]
"""A stream's stores: with True one for each augmented copy that training reads in turn, with False
the one of the pictures as they are. Computes what is not there yet."""


def read_copies(
    stores: tuple[StoredFeatures, ...], rows: np.ndarray, views: np.ndarray, passes: np.ndarray
) -> torch.Tensor:
    """Features [n, v, A, B, C] of samples int64 [n]; pass p of a sample reads copy p mod k."""
    if len(stores) == 1:
        return torch.from_numpy(stores[0].read(rows, views))
    copies = passes % len(stores)
    out = stores[0].read(rows, views)
    for copy in range(1, len(stores)):
        here = copies == copy
        out[here] = stores[copy].read(rows[here], views[here])
    return torch.from_numpy(out)
