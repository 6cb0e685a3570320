"""Alignment of class centres and of instances to centres (ASTN eq. 10 and table 7; MSTN)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from trainer.synchronised import class_sums, euclidean_norm

Phi = Literal["euclidean", "squared"]
Reduction = Literal["sum", "mean"]


def _phi(difference: Tensor, phi: Phi) -> Tensor:
    if phi == "squared":
        return difference.square().sum(-1)
    return euclidean_norm(difference)


def _over_classes(
    values: Tensor, mask: Tensor, *, phi: Phi, reduction: Reduction, width: int
) -> Tensor:
    """Sum of ``values [K]`` where ``mask [K]`` holds, or mean: see `class_center_distance`."""
    total = (values * mask).sum()
    if reduction == "sum":
        return total
    return total / (mask.sum().clamp(min=1) * (width if phi == "squared" else 1))


def class_center_distance(
    first: Tensor,
    second: Tensor,
    *,
    mask: Tensor,
    phi: Phi = "euclidean",
    reduction: Reduction = "sum",
) -> Tensor:
    """Distance between two sets of class centres, range [0, ∞).

    Args:
        first, second: ``[K, D]`` centres, already global and equal on all ranks.
        mask: ``[K]`` bool; only classes with a centre on both sides take part.
        phi: Euclidean distance (ASTN as printed) or its square (HIFA, and MSTN's code).
        reduction: sum over classes, as the papers print it; or mean over the classes that take
            part, and over the D coordinates too where distances are squared, as in MSTN's public
            code: it is K·D times smaller, and its scale depends on neither K nor D.

    Nothing is detached; the gradient of a running centre is that of its batch part.
    """
    apart = _phi(first - second, phi)
    return _over_classes(apart, mask, phi=phi, reduction=reduction, width=first.shape[1])


def instance_alignment(
    features: Tensor,
    labels: Tensor,
    centers: Tensor,
    *,
    mask: Tensor,
    phi: Phi = "euclidean",
    reduction: Reduction = "sum",
) -> Tensor:
    """Distance of samples to the centre of their (pseudo-)class, range [0, ∞).

    The mean over the samples of each class, then the sum or mean over classes as in
    `class_center_distance`: with one sample in every class the two functions agree, so that ASTN's
    table 7 compares what is pulled and not how much.

    Args:
        features: ``[n, D]`` of this rank's rows; n may be 0.
        labels: ``[n]`` class or pseudo-class.
        centers: ``[K, D]``.
        mask: ``[K]`` bool; samples whose class has no centre are left out.
    """
    distances = _phi(features - centers[labels], phi)
    (sums,) = class_sums((distances[:, None], labels), num_classes=len(centers))
    present, width = mask & sums.present, centers.shape[1]
    return _over_classes(sums.means[:, 0], present, phi=phi, reduction=reduction, width=width)
