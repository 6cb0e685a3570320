"""Embeddings of a stream in evaluation mode, each item exactly once over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dataio.loading import Batch, StreamSource, walk
from trainer.inputs import to_domain
from trainer.methods import Method
from trainer.synchronised import collectives


def embed_batches(
    method: Method,
    source: StreamSource,
    *,
    batch: int,
    dtype: torch.dtype,
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[Batch, Tensor]]:
    """This rank's share of a stream in its order, with retrieval embeddings ``[n, D]``.

    The caller puts ``method`` into evaluation mode and turns gradients off. Every rank gets the
    same number of parts, the last ones possibly without rows, so that all make the same forward
    passes.

    Args:
        source: queries (images) or gallery (shapes, all views).
        batch: samples per forward pass, over all ranks.
        dtype: of the pixels.
    """
    for part in walk(source, batch=batch, rank=rank, world_size=world_size):
        domain = to_domain(part, source, device=device, dtype=dtype)
        shapes = domain.pixels.dim() == 5
        embed = method.embed_gallery if shapes else method.embed_queries
        yield part, embed(domain.pixels)


def embed_whole(
    method: Method, source: StreamSource, *, on_part: Callable[[], None], **options: Any
) -> Tensor:
    """Embeddings ``[N, D]`` of a whole stream in its order, on every rank; called by all of them.

    ``options`` are those of :func:`embed_batches` without the ranks; ``on_part`` is called after
    each part. N·D numbers on every rank.
    """
    options |= {"rank": collectives.rank(), "world_size": collectives.world_size()}
    found, positions = [], []
    for part, embedded in embed_batches(method, source, **options):
        found.append(embedded)
        positions.append(part.position)
        on_part()
    vectors = torch.cat(found)
    places = torch.cat(positions).to(vectors.device)
    vectors, places = collectives.all_gather_rows(vectors), collectives.all_gather_rows(places)
    return vectors[places.argsort()]
