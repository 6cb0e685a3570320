"""Class-balanced draws: exactly P classes with exactly K samples each, for any step, no buffers."""

from __future__ import annotations

import numpy as np

from dataio.plan import random_words
from dataio.records import DataError

__all__ = ["balanced_batch"]

_CLASS_ORDER, _SAMPLE_ORDER = 2, 3  # continues the purposes numbered in dataio.plan


def balanced_batch(
    class_ids: np.ndarray,
    *,
    classes_per_batch: int,
    samples_per_class: int,
    seed: int,
    stream_id: int,
    step: int,
) -> np.ndarray:
    """Draw a P×K batch for `step`: positions int64 [P*K], class after class.

    P distinct classes, then K distinct samples of each. A class with fewer than K samples gives
    each of its samples floor(K/n) or ceil(K/n) times. A pure function of its arguments; steps are
    drawn independently, so any step can be asked for directly.

    Args:
        class_ids: int [N], the class of each position; negative = unlabelled, never drawn.
        classes_per_batch: P.
        samples_per_class: K.
        seed, stream_id, step: what the draw depends on, each in [0, 2^64).

    Raises:
        DataError: P or K below 1, or fewer than P classes present.
    """
    class_ids = np.asarray(class_ids)
    if classes_per_batch < 1 or samples_per_class < 1:
        raise DataError(
            "classes_per_batch and samples_per_class must be at least 1, "
            f"got {classes_per_batch} and {samples_per_class}"
        )
    present = np.unique(class_ids[class_ids >= 0])
    if len(present) < classes_per_batch:
        raise DataError(
            f"classes_per_batch={classes_per_batch} but only {len(present)} labelled classes are "
            f"present; use classes_per_batch <= {len(present)}"
        )
    key = (seed, stream_id)
    class_words = random_words(len(present), key=key, counter=(step, _CLASS_ORDER))
    chosen = present[np.argsort(class_words, kind="stable")[:classes_per_batch]]
    sample_words = random_words(len(class_ids), key=key, counter=(step, _SAMPLE_ORDER))
    draws = [_members(class_ids == c, sample_words, samples_per_class) for c in chosen]
    return np.concatenate(draws)


def _members(mask: np.ndarray, words: np.ndarray, count: int) -> np.ndarray:
    members = np.flatnonzero(mask)
    shuffled = members[np.argsort(words[members], kind="stable")]
    return np.resize(shuffled, count).astype(np.int64)  # np.resize repeats when too short
