"""Pseudo-labels of a whole data set that is spread over the ranks: clusters, matching, selection.

No rank ever holds another rank's embeddings: sums and counts are all-reduced (O(K·D) numbers), and
three numbers per sample are gathered where samples have to be ranked. Results are the same on every
rank. Another number of ranks adds in another order, so results agree to rounding: a sample that
lies within rounding (1e-15 relative) of two centres may change sides.

Axis letters: n local rows, N rows of all ranks, K classes or clusters, D embedding width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.synchronised.class_centers import class_sums
from trainer.synchronised.collectives import all_gather_rows, any_rank, broadcast_object


def distances(rows: Tensor, centers: Tensor) -> Tensor:
    """Euclidean distances ``[n, K]`` in float64 between ``rows [n, D]`` and ``centers [K, D]``.

    Each pair is computed on its own, so equal rows have equal distances wherever they lie.
    """
    mode = "donot_use_mm_for_euclid_dist"
    return torch.cdist(rows.double(), centers.double(), compute_mode=mode)


def kmeans(rows: Tensor, initial: Tensor, *, iterations: int = 100) -> Tensor:
    """Cluster centres ``[K, D]`` of all ranks' rows by Lloyd's algorithm, in float64.

    Args:
        rows: ``[n, D]`` of this rank; n may be 0.
        initial: ``[K, D]``, equal on all ranks.
        iterations: the most that are done; fewer when the centres stand still.

    A row belongs to its nearest centre, and to the first of equally near ones. A cluster without
    rows keeps its centre. No randomness, no gradient.
    """
    rows, centers = rows.detach().double(), initial.detach().double()
    for _ in range(iterations):
        nearest = distances(rows, centers).argmin(1)
        (sums,) = class_sums((rows, nearest), num_classes=len(centers))
        moved = torch.where(sums.present[:, None], sums.means, centers)
        still, centers = torch.equal(moved, centers), moved
        if not any_rank(not still, rows.device):
            break
    return centers


def match_clusters(centers: Tensor, class_centers: Tensor) -> Tensor:
    """The cluster of each class, ``[K]``: one-to-one with the least sum of distances.

    FTSPL eq. 7, solved exactly. Both arguments are ``[K, D]`` and equal on all ranks; rank 0's
    solution holds, so that the ranks agree also where several are optimal.
    """
    from scipy.optimize import linear_sum_assignment  # half a second to load; FTSPL alone needs it

    cost = distances(class_centers, centers).cpu().numpy()
    matched = broadcast_object([int(c) for c in linear_sum_assignment(cost)[1]])
    return torch.tensor(matched, device=centers.device)


def log_odds(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Most probable class ``[n]`` under softmax(``scores [n, K]``) and its log-odds ``[n]``.

    ``log(p / (1 - p))`` orders samples as p does, and still tells apart samples whose p rounds to
    1, which is frequent for a softmax of distances. Range [-log(K-1), ∞]; ∞ for K = 1. Of equal
    maxima the first one counts.
    """
    labels = scores.argmax(1)
    index = labels[:, None]
    others = scores.scatter(1, index, -torch.inf).logsumexp(1)
    return labels, scores.gather(1, index).squeeze(1) - others


def select(
    certainty: Tensor,
    labels: Tensor,
    *,
    samples: Tensor,
    size: int,
    share: tuple[int, int],
    num_classes: int,
) -> Tensor:
    """Class-wise selection of the most certain samples (FTSPL, section III-D3).

    Args:
        certainty: ``[n]``, larger is surer; n may be 0 (so with the next two).
        labels: ``[n]`` pseudo-labels in 0..K-1.
        samples: ``[n]`` positions in the whole set, in [0, ``size``), each once over all ranks.
        size: number of samples N of the whole set.
        share: (l, L). Of the n_k samples with label k, ``n_k·l // L`` are taken (in integers:
            0.2·n in floats takes the wrong count), but at least one where n_k > 0.
        num_classes: K.

    Returns the labels ``[N]`` of the selected samples by position, -1 for the others; equal on all
    ranks. Of equally certain samples the first in the set is taken first.
    """
    numbers = torch.stack([certainty.double(), labels.double(), samples.double()], 1)
    certainty, labels, samples = all_gather_rows(numbers.detach()).unbind(1)
    labels, samples = labels.long(), samples.long()
    order = samples.argsort()
    order = order[certainty[order].argsort(descending=True, stable=True)]
    order = order[labels[order].argsort(stable=True)]

    counts = torch.bincount(labels, minlength=num_classes)
    part, whole = share
    quota = (counts * part // whole).clamp(min=1)
    sorted_labels = labels[order]
    rank_in_class = torch.arange(len(order), device=order.device)
    rank_in_class = rank_in_class - (counts.cumsum(0) - counts)[sorted_labels]
    taken = rank_in_class < quota[sorted_labels]
    chosen = labels.new_full((size,), -1)
    chosen[samples[order[taken]]] = sorted_labels[taken]
    return chosen
