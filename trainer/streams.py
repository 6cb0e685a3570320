"""From a run description to the streams that a method trains on, and from batches to domains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from dataio.augment import apply
from dataio.loader import Batch, StreamSource
from dataio.manifest import Manifest, load_manifest
from trainer.config import ConfigError, RunConfig, Selection
from trainer.methods import METHODS, Domain

__all__ = ["data_fingerprint", "evaluation_source", "label_space", "to_domain", "training_sources"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@lru_cache(maxsize=8)
def _manifest(root: str) -> Manifest:
    return load_manifest(Path(root))


def _open(config: RunConfig, selection: Selection) -> Manifest:
    return _manifest(selection.root or config.data.root)


def label_space(config: RunConfig) -> tuple[str, ...]:
    """The class names in order of their ids: ``data.classes``, else those of the data set.

    Raises:
        DataError: no class list is configured and the data set cannot be read.
    """
    if config.data.classes is not None:
        return config.data.classes
    return _open(config, config.data.source_images).classes


def data_fingerprint(config: RunConfig) -> str:
    """Hash of the content of all data sets that the run trains on."""
    streams = METHODS[config.method_name].streams
    roots = sorted({_open(config, getattr(config.data, s)).fingerprint for s in streams})
    return "+".join(root[:16] for root in roots)


def training_sources(config: RunConfig) -> dict[str, StreamSource]:
    """One :class:`StreamSource` per stream that the method needs.

    Raises:
        ConfigError: a selection's kind of samples is not what the method needs there.
    """
    sources = {}
    for name, need in METHODS[config.method_name].streams.items():
        selection: Selection = getattr(config.data, name)
        modality = "shape" if selection.stream == "shape" else "image"
        if modality != need.modality:
            raise ConfigError(
                f"data.{name}.stream: {config.method_name} needs {need.modality}s there, "
                f"'{selection.stream}' are {modality}s"
            )
        sources[name] = _source(config, selection, labelled=need.labelled, training=True)
    return sources


def evaluation_source(config: RunConfig, selection: Selection) -> StreamSource:
    """The stream of queries or gallery items: all views, labels visible, no augmentation."""
    return _source(config, selection, labelled=True, training=False)


def _source(
    config: RunConfig, selection: Selection, *, labelled: bool, training: bool
) -> StreamSource:
    manifest = _open(config, selection)
    return StreamSource(
        manifest=manifest,
        rows=manifest.select(selection.stream, selection.split),
        classes=label_space(config),
        labelled=labelled,
        image_size=config.network.input_size,
        views=config.data.train_views if training else None,
        augment=config.data.augment if training else None,
    )


def to_domain(batch: Batch, *, size: int, device: torch.device | str, dtype: torch.dtype) -> Domain:
    """Augment and normalise one batch on ``device``."""
    batch = batch.to(device)
    pixels = apply(batch.pixels, batch.jitter, size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Domain(pixels.to(dtype), batch.label, batch.offset, tuple(batch.keys))


def to_domains(
    batches: Mapping[str, Batch], *, size: int, device: torch.device | str, dtype: torch.dtype
) -> dict[str, Domain]:
    """:func:`to_domain` for every stream of a step."""
    return {
        name: to_domain(batch, size=size, device=device, dtype=dtype)
        for name, batch in batches.items()
    }
