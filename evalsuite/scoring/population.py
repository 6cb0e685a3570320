"""The queries that are scored, and the classes of the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evalsuite.vectors import EvaluationError

# Ranks and the entries of counts are int32.
MOST_ITEMS = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Population:
    """The queries that are evaluated, and their classes in the gallery.

    ``keys``, ``labels`` of all queries; ``rows`` int64 [Q], the evaluated ones in query order;
    ``sizes`` int64 [Q], their numbers of relevant items; ``classes`` their sorted class names and
    ``class_ids`` int64 [Q]; ``largest_class`` over the whole gallery.
    """

    keys: Sequence[str]
    labels: Sequence[str]
    rows: np.ndarray
    sizes: np.ndarray
    classes: tuple[str, ...]
    class_ids: np.ndarray
    missing_labels: tuple[str, ...]
    gallery_size: int
    largest_class: int


def population(
    held: Sequence[dict[str, Any]], keys: Sequence[str], labels: Sequence[str], on_missing: str
) -> Population:
    class_sizes: dict[str, int] = {}
    for shard in held:
        for label, count in zip(shard["labels"], shard["counts"], strict=True):
            class_sizes[label] = class_sizes.get(label, 0) + int(count)
    sizes = np.array([class_sizes.get(label, 0) for label in labels], dtype=np.int64)
    rows = np.flatnonzero(sizes)
    missing = tuple(sorted({label for label in labels if label not in class_sizes}))
    if missing and on_missing == "error":
        raise EvaluationError(
            f"classes without a gallery item: {', '.join(map(repr, missing[:5]))}; "
            "add items or pass on_missing='exclude'"
        )
    if not len(rows):
        raise EvaluationError(
            f"no query has an item of its class in the gallery (query classes {missing[:3]}, "
            f"gallery classes {tuple(sorted(class_sizes)[:3])}); check the label names"
        )
    total = sum(class_sizes.values())
    if total > MOST_ITEMS:
        raise EvaluationError(
            f"the gallery holds {total} items, {MOST_ITEMS} are the most; score parts of it"
        )
    classes, class_ids = np.unique(np.asarray(labels, dtype=str)[rows], return_inverse=True)
    return Population(
        keys=keys,
        labels=labels,
        rows=rows,
        sizes=sizes[rows],
        classes=tuple(str(name) for name in classes),
        class_ids=class_ids,
        missing_labels=missing,
        gallery_size=total,
        largest_class=max(class_sizes.values()),
    )
