"""A random choice of items that is always the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def drawn(
    items: Sequence[T], limit: int | None, *, seed: int, item_id: Callable[[T], str]
) -> list[T]:
    """At most `limit` of the items (None: all), in their own order.

    They are chosen by the SHA-1 of their ids, so the draw does not depend on the order of the items
    and a smaller limit gives a part of what a larger one gives. It is independent of
    `hashed_split`, which would otherwise find only items of one split among the drawn ones.
    """
    if limit is None or len(items) <= limit:
        return list(items)

    def rank(index: int) -> bytes:
        text = f"{seed}:draw:{item_id(items[index])}"
        return hashlib.sha1(text.encode("utf-8", "surrogateescape")).digest()

    chosen = sorted(range(len(items)), key=rank)[:limit]
    return [items[index] for index in sorted(chosen)]
