"""Distance between the class means of two modalities (DCA eq. 11), and accuracy by class means.

Axis letters: n, m local rows, K classes, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.losses.centers import Reduction, class_center_distance
from trainer.synchronised import class_sums, euclidean_norm, global_mean


def class_mean_discrepancy(
    first: Tensor,
    first_labels: Tensor,
    second: Tensor,
    second_labels: Tensor,
    *,
    num_classes: int,
    reduction: Reduction = "sum",
) -> Tensor:
    """L_CMD of DCA (eq. 11): sum over classes of ‖mean of first - mean of second‖, range [0, ∞).

    Means are those of the global batch, grouped by label in any order; classes absent from either
    side take no part; ``reduction="mean"`` divides by the number of the others. The distance is not
    squared. Nothing is detached.

    Args:
        first, second: ``[n, D]`` and ``[m, D]`` of this rank's rows; n and m may be 0.
        first_labels, second_labels: ``[n]`` and ``[m]``, int64 in 0..K-1.
    """
    a, b = class_sums((first, first_labels), (second, second_labels), num_classes=num_classes)
    both = a.present & b.present
    return class_center_distance(a.means, b.means, mask=both, reduction=reduction)


@torch.no_grad()
def nearest_mean_accuracy(
    queries: Tensor,
    query_labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    *,
    num_classes: int,
) -> Tensor:
    """Share of queries whose nearest class mean of the gallery is their own class's.

    Over the global batch, Euclidean distance, range [0, 1], no gradient; 0 without a gallery.
    Arguments as in :func:`class_mean_discrepancy`.
    """
    (sums,) = class_sums((gallery, gallery_labels), num_classes=num_classes)
    distances = euclidean_norm(queries[:, None] - sums.means)
    nearest = distances.masked_fill(~sums.present, torch.inf).argmin(1)
    right = (nearest == query_labels) & sums.present[nearest]
    return global_mean(right.to(queries.dtype))
