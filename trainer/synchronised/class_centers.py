"""Class centres over ranks: class sums, centres of the global batch, running centres.

Every function takes this rank's rows and returns the value over all ranks' rows, identical on
every rank and differentiable in the local rows. The ranks exchange O(K·D) numbers, never rows.

Axis letters: n local rows, K classes, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.synchronised.collectives import all_reduce_sum


def full_precision(x: Tensor) -> Tensor:
    """``x`` in float32 at least: losses are never computed below it; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def euclidean_norm(x: Tensor, *, epsilon: float = 1e-12) -> Tensor:
    """``‖x‖`` over the last axis, ``[..., D] -> [...]``, as sqrt(max(Σx², ε)).

    The clamp sits inside the root, so the gradient at x = 0 is 0 and never NaN.
    """
    return x.square().sum(-1).clamp(min=epsilon).sqrt()


@dataclass(frozen=True)
class ClassSums:
    """Global per-class sums and counts of one domain.

    ``sums [K, D]`` carries gradient, ``counts [K]`` does not.
    """

    sums: Tensor
    counts: Tensor

    @property
    def present(self) -> Tensor:
        """``[K]`` bool: the class has at least one row in the global batch."""
        return self.counts > 0

    @property
    def means(self) -> Tensor:
        """Class centres ``[K, D]``; rows of absent classes are 0."""
        return self.sums / self.counts.clamp(min=1)[:, None]


def class_sums(*domains: tuple[Tensor, Tensor], num_classes: int) -> list[ClassSums]:
    """Global class sums of several domains with a single all-reduce.

    Args:
        domains: pairs of features ``[n, D]`` and labels ``[n]`` (int64 in 0..K-1); n may be 0 and
            may differ between domains and ranks.
        num_classes: K.

    Returns one :class:`ClassSums` per domain, in order (numerators of ASTN eq. 4-5).
    """
    local = torch.cat([_local_sums(f, y, num_classes) for f, y in domains])
    total = all_reduce_sum(local).split(num_classes)
    return [ClassSums(t[:, :-1], t[:, -1].detach()) for t in total]


def pool_sums(*parts: ClassSums) -> ClassSums:
    """Class sums of the union of several domains; its means are ASTN's eq. 6."""
    sums = torch.stack([p.sums for p in parts]).sum(0)
    return ClassSums(sums, torch.stack([p.counts for p in parts]).sum(0))


def _local_sums(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """``[K, D+1]``: per-class feature sums with the class count as last column."""
    rows = torch.cat([features, features.new_ones(len(features), 1)], 1)
    one_hot = torch.nn.functional.one_hot(labels, num_classes).to(rows.dtype)
    return one_hot.T @ rows


class RunningCenters(nn.Module):
    """Exponentially averaged class centres, identical on all ranks (ASTN eq. 7-9; MSTN).

    ``C ← θ·C_batch + (1−θ)·stopgrad(C)``: the gradient flows through the current batch only. The
    first batch that holds a class initialises its centre; an absent class keeps its centre.
    """

    centers: Tensor
    seen: Tensor

    def __init__(self, num_classes: int, width: int, *, theta: float) -> None:
        super().__init__()
        self.theta = theta
        self.register_buffer("centers", torch.zeros(num_classes, width))
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.bool))

    def forward(self, batch: ClassSums) -> tuple[Tensor, Tensor, Tensor]:
        """Move the centres by one global batch.

        Returns the new centres ``[K, D]`` (differentiable in the batch), the mask ``[K]`` of
        classes seen so far, and the drift: the mean distance the present classes moved (scalar).
        """
        # Clones: the graph must not see the in-place update of the buffers below.
        old, seen = self.centers.to(batch.means.dtype, copy=True), self.seen.clone()
        blend = torch.where(
            seen[:, None], self.theta * batch.means + (1 - self.theta) * old, batch.means
        )
        centers = torch.where(batch.present[:, None], blend, old)
        with torch.no_grad():
            moved = batch.present & seen
            drift = (euclidean_norm(centers - old) * moved).sum() / moved.sum().clamp(min=1)
            self.centers.copy_(centers)
            self.seen.copy_(seen | batch.present)
        return centers, seen | batch.present, drift
