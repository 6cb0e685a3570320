"""Alignment of class centres and of instances to centres (ASTN eq. 10 and table 7; MSTN)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from trainer.synchronised import euclidean_norm, global_mean

Phi = Literal["euclidean", "squared"]


def _phi(difference: Tensor, phi: Phi) -> Tensor:
    if phi == "squared":
        return difference.square().sum(-1)
    return euclidean_norm(difference)


def class_center_distance(
    first: Tensor, second: Tensor, *, mask: Tensor, phi: Phi = "euclidean"
) -> Tensor:
    """Sum over classes of the distance between two sets of centres, range [0, ∞).

    Args:
        first, second: ``[K, D]`` centres, already global and equal on all ranks.
        mask: ``[K]`` bool; only classes with a centre on both sides take part.
        phi: Euclidean distance (ASTN as printed) or its square (MSTN's code).

    Nothing is detached; the gradient of a running centre is that of its batch part.
    """
    return (_phi(first - second, phi) * mask).sum()


def instance_alignment(
    features: Tensor, labels: Tensor, centers: Tensor, *, mask: Tensor, phi: Phi = "euclidean"
) -> Tensor:
    """Mean distance of samples to the centre of their (pseudo-)class, range [0, ∞).

    Args:
        features: ``[n, D]`` of this rank's rows; n may be 0.
        labels: ``[n]`` class or pseudo-class.
        centers: ``[K, D]``.
        mask: ``[K]`` bool; samples whose class has no centre are left out of the mean.
    """
    return global_mean(_phi(features - centers[labels], phi), mask[labels])
