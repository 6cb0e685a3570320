"""A shape as a set of views (MVCNN, Su et al., ICCV 2015).

Every view goes through the same network; the views' embeddings, taken after the bottleneck, are
pooled element-wise. Axis letters: n shapes, V views, D embedding width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor


def embed_views(x: Tensor, embed: Callable[[Tensor], Tensor]) -> Tensor:
    """Embeddings ``[n, V, D]`` of the single views ``x [n, V, 3, H, W]``; n may be 0.

    Args:
        embed: maps images ``[n·V, 3, H, W]`` to embeddings ``[n·V, D]``.
    """
    assert x.dim() == 5, f"views of shapes are [n, V, 3, H, W], not {list(x.shape)}"
    return embed(x.flatten(0, 1)).unflatten(0, (-1, x.shape[1]))


def pool_views(views: Tensor, how: Literal["max", "mean"]) -> Tensor:
    """Shape embeddings ``[n, D]`` from those of the views ``[n, V, D]``.

    Equal maxima, as a symmetric shape has them, share the gradient evenly.
    """
    return views.amax(dim=1) if how == "max" else views.mean(dim=1)
