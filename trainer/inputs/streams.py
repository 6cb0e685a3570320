"""The loader of a run's training batches, and from batches to domains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch

from dataio.loading import Batch, Loader, LoaderOptions, StreamSource, apply, walk
from trainer.inputs.open_data import OpenData
from trainer.methods import Domain


def training_loader(
    data: OpenData,
    *,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    on_part: Callable[[], None] | None = None,
) -> Loader:
    """The batches of a run: one slice of a plain or balanced batch of each drawn stream a step.

    With ``training.cache=device`` the pixels lie on ``device``; ``on_part`` is called with each
    part of the streams that is decoded for it. The errors are those of :attr:`OpenData.plan`.
    """
    training = data.config.training
    options = LoaderOptions(
        workers=training.loader_workers,
        pin_memory=torch.device(device).type == "cuda",
        cache=training.cache,
        cache_bytes=training.cache_bytes,
        device=device,
    )
    return Loader(
        data.plan,
        options,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        on_part=on_part,
    )


def to_domain(
    batch: Batch, source: StreamSource, *, device: torch.device | str, dtype: torch.dtype
) -> Domain:
    """Augment and normalise one batch of ``source`` on ``device``; features stay as they are."""
    batch = batch.to(device)
    pixels = batch.pixels
    if source.features is None:
        pixels = apply(
            pixels, batch.jitter, size=source.image_size, preprocessing=source.preprocessing
        )
    return Domain(
        pixels.to(dtype),
        batch.label,
        batch.offset,
        tuple(batch.keys),
        batch.position,
        len(source.rows),
    )


def to_domains(
    batches: Mapping[str, Batch],
    sources: Mapping[str, StreamSource],
    *,
    device: torch.device | str,
    dtype: torch.dtype,
) -> dict[str, Domain]:
    """:func:`to_domain` for every stream of a step."""
    return {
        name: to_domain(batch, sources[name], device=device, dtype=dtype)
        for name, batch in batches.items()
    }


def walk_stream(
    source: StreamSource,
    *,
    batch: int,
    rank: int,
    world_size: int,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Iterator[Domain]:
    """This rank's part of a training stream, each sample once over all ranks, all views, not
    augmented; labels are hidden where the source hides them."""
    plain = replace(source, views=None, augment=None)
    for part in walk(plain, batch=batch, rank=rank, world_size=world_size):
        domain = to_domain(part, plain, device=device, dtype=dtype)
        if not source.labelled:
            domain = replace(domain, labels=torch.full_like(domain.labels, -1))
        yield domain
