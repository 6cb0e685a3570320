"""Cross-modal triplets between labelled images and labelled shapes (DAIS-NET eq. 5).

Images are the anchors and stay on their rank. Shapes are gathered from all ranks, so a positive or
a negative may be any shape of the global batch. A rank computes n·N distances.

Axis letters: n images and m shapes on this rank, N shapes of the global batch, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dataio.device import to_device
from dataio.loading import random_words, stream_number
from trainer.synchronised import all_gather_rows, global_mean

Mining = Literal["random", "hard"]


@dataclass(frozen=True)
class Draw:
    """What determines random positives and negatives, so that they do not depend on W.

    ``offset`` is the position of this rank's first image in the global batch.
    """

    seed: int
    step: int
    offset: int

    def choose(self, allowed: Tensor, which: str) -> Tensor:
        """One allowed column ``[n]`` of each row of ``allowed [n, N]``; 0 where there is none."""
        key = (self.seed, stream_number(which))
        words = random_words(self.offset + len(allowed), key=key, counter=(self.step, 0))
        numbers = torch.from_numpy((words[self.offset :] >> 1).astype("int64"))
        place = to_device(numbers, allowed.device) % allowed.sum(1).clamp(min=1)
        return (allowed.cumsum(1) > place[:, None]).int().argmax(1)


def cross_modal_triplet(
    images: Tensor,
    image_labels: Tensor,
    shapes: Tensor,
    shape_labels: Tensor,
    *,
    draw: Draw,
    margin: float = 1.0,
    mining: Mining = "random",
) -> Tensor:
    """Mean of ``max(‖f - p‖² - ‖f - n‖² + α, 0)`` over the images f, range [0, ∞).

    p is a shape of the image's class, n one of another class, both of the global batch. The mean
    runs over the images of the global batch that have both; without any it is 0. The paper prints
    a sum. Nothing is detached; the choice of p and n has no gradient.

    Args:
        images: ``[n, D]`` of this rank's rows; n may be 0.
        image_labels: ``[n]`` int64.
        shapes: ``[m, D]`` of this rank's rows; m may be 0.
        shape_labels: ``[m]`` int64.
        draw: what ``random`` mining draws from.
        margin: α, in squared distance.
        mining: ``random`` draws one p and one n per image; ``hard`` takes the farthest p and the
            nearest n, the first of equals.
    """
    everyone, same, other = _meet(images, image_labels, shapes, shape_labels)
    if mining == "random":
        positive, negative = draw.choose(same, "positive"), draw.choose(other, "negative")
    else:
        positive = _farthest(images, everyone, same)
        negative = _nearest(images, everyone, other)
    kept = same.any(1) & other.any(1)
    gap = _squared(images, everyone, positive) - _squared(images, everyone, negative)
    return global_mean((gap + margin).clamp(min=0), kept)


def paired_squared_distance(
    images: Tensor,
    image_labels: Tensor,
    shapes: Tensor,
    shape_labels: Tensor,
    *,
    draw: Draw,
    mining: Mining = "random",
) -> Tensor:
    """Mean of ``‖f - p‖²`` over the images f that have a shape p of their class, range [0, ∞).

    The first half of :func:`cross_modal_triplet`, whose arguments it takes (DAIS-NET tables 1-2,
    MSE): a sum over D, as in eq. 5, not a mean.
    """
    everyone, same, _ = _meet(images, image_labels, shapes, shape_labels)
    positive = (
        draw.choose(same, "positive") if mining == "random" else _farthest(images, everyone, same)
    )
    return global_mean(_squared(images, everyone, positive), same.any(1))


def _meet(
    images: Tensor, image_labels: Tensor, shapes: Tensor, shape_labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """All shapes ``[N + 1, D]``, and which are of an image's class and which of another.

    The last row is not a shape and never allowed; it keeps the choice from an empty set possible.
    """
    nothing = shapes.new_zeros(1, shapes.shape[1])
    everyone = torch.cat([all_gather_rows(shapes), nothing])
    labels = torch.cat([all_gather_rows(shape_labels), shape_labels.new_full((1,), -1)])
    same = image_labels[:, None] == labels
    return everyone, same, ~same & (labels >= 0)


@torch.no_grad()
def _farthest(images: Tensor, shapes: Tensor, allowed: Tensor) -> Tensor:
    return _distances(images, shapes).masked_fill(~allowed, -torch.inf).argmax(1)


@torch.no_grad()
def _nearest(images: Tensor, shapes: Tensor, allowed: Tensor) -> Tensor:
    return _distances(images, shapes).masked_fill(~allowed, torch.inf).argmin(1)


def _distances(images: Tensor, shapes: Tensor) -> Tensor:
    # In a matrix product, rounding and so near-ties would depend on how many rows a rank has.
    return torch.cdist(images, shapes, compute_mode="donot_use_mm_for_euclid_dist")


def _squared(images: Tensor, shapes: Tensor, chosen: Tensor) -> Tensor:
    return (images - shapes[chosen]).square().sum(1)
