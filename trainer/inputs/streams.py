"""From a run description to the streams that a method trains on, and from batches to domains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dataio.loading import Balance, Batch, Loader, StreamSource, apply, walk
from dataio.records import DataError
from dataio.shards import Manifest
from trainer.config import ConfigError, RunConfig
from trainer.inputs.data_sets import (
    label_space,
    open_data_set,
    require_classes,
    training_selections,
)
from trainer.methods import METHODS, Domain
from trainer.sections import Selection

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def training_sources(config: RunConfig) -> dict[str, StreamSource]:
    """One :class:`StreamSource` per stream that the method needs.

    Raises:
        ConfigError: ``data.classes`` names a class that no data set has (with ``data.restrict``,
            that one lacks), or lacks one that is trained on.
        DataError: a data set cannot be read, or a sample lacks the label that the method needs.
    """
    require_classes(config)
    sources = {}
    needs = METHODS[config.method_name].streams
    for name, selection in training_selections(config).items():
        need = needs[name]
        sources[name] = _source(config, selection, labelled=need.labelled, training=True)
        if need.labelled:
            _require_labels(sources[name], where=f"data.{name}")
            _require_within_classes(sources[name], where=f"data.{name}")
    return sources


def training_loader(
    config: RunConfig,
    sources: Mapping[str, StreamSource],
    *,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    on_part: Callable[[], None] | None = None,
) -> Loader:
    """The batches of a run: one slice of a plain or balanced batch of each drawn stream a step.

    With ``training.cache=device`` the pixels lie on ``device``; ``on_part`` is called with each
    part of the streams that is decoded for it.

    Raises:
        DataError: the streams cannot give such batches, e.g. too few classes are in all of them.
    """
    method, training = METHODS[config.method_name], config.training
    balance = None
    if method.balanced:
        options: Any = config.method
        balance = Balance(options.classes_per_batch, options.samples_per_class)
    return Loader(
        {name: source for name, source in sources.items() if name not in method.walked},
        batch=None if balance else training.batch,
        balance=balance,
        seed=training.seed,
        steps=training.steps,
        start_step=start_step,
        rank=rank,
        world_size=world_size,
        workers=training.loader_workers,
        pin_memory=torch.device(device).type == "cuda",
        cache=training.cache,
        cache_bytes=training.cache_bytes,
        device=device,
        on_part=on_part,
        block_shards=config.data.block_shards,
    )


def evaluation_source(config: RunConfig, selection: Selection) -> StreamSource:
    """The stream of queries or gallery items: all views, labels visible, no augmentation.

    Classes outside the label space are welcome: retrieval needs no classifier.

    Raises:
        DataError: the data set cannot be read, or a sample has no label to score it by.
    """
    source = _source(config, selection, labelled=True, training=False)
    _require_labels(source, where=f"{selection.stream}/{selection.split}")
    return source


def criterion_source(
    config: RunConfig, selection: Selection, *, labelled: bool, where: str
) -> StreamSource:
    """A stream that a criterion looks at: all views, no augmentation.

    Args:
        labelled: whether its labels may be read; where not, :func:`walk_stream` hides them.
        where: what to call it in messages.

    Raises:
        ConfigError: it is labelled and has a class that is not trained on.
        DataError: the data set cannot be read, or a sample lacks a label that may be read.
    """
    source = _source(config, selection, labelled=labelled, training=False)
    if labelled:
        _require_labels(source, where=where)
        _require_within_classes(source, where=where)
    return source


def _require_labels(source: StreamSource, *, where: str) -> None:
    for row in source.rows:
        if source.manifest.labels[row] is None:
            raise DataError(
                f"{source.manifest.root}: sample '{source.manifest.keys[row]}' of {where} has no "
                "label; choose a labelled stream and split"
            )


def _require_within_classes(source: StreamSource, *, where: str) -> None:
    lacking = sorted(set(source.manifest.labels[source.rows].tolist()) - set(source.classes))
    if lacking:
        raise ConfigError(
            f"data.classes: lacks {', '.join(lacking)}, which {where} of "
            f"{source.manifest.root} holds; add them or leave data.classes out"
        )


def _source(
    config: RunConfig, selection: Selection, *, labelled: bool, training: bool
) -> StreamSource:
    manifest = open_data_set(config, selection)
    rows = manifest.select(selection.stream, selection.split)
    if config.data.restrict:
        rows = _restricted(rows, manifest, label_space(config))
    return StreamSource(
        manifest=manifest,
        rows=rows,
        classes=label_space(config),
        labelled=labelled,
        image_size=config.network.input_size,
        views=config.data.train_views if training else None,
        augment=config.data.augment if training else None,
    )


def _restricted(rows: np.ndarray, manifest: Manifest, classes: tuple[str, ...]) -> np.ndarray:
    """The rows of ``classes`` alone."""
    kept = rows[[label in classes for label in manifest.labels[rows]]]
    if len(kept) == 0:
        known = sorted({label for label in manifest.labels[rows] if label is not None})
        raise ConfigError(
            f"data.restrict: {manifest.root} has no sample of data.classes "
            f"({', '.join(classes)}) there; it has "
            f"{', '.join(known) or 'no labels'}"
        )
    return kept


def to_domain(
    batch: Batch, source: StreamSource, *, device: torch.device | str, dtype: torch.dtype
) -> Domain:
    """Augment and normalise one batch of ``source`` on ``device``."""
    batch = batch.to(device)
    pixels = apply(
        batch.pixels, batch.jitter, size=source.image_size, mean=IMAGENET_MEAN, std=IMAGENET_STD
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
