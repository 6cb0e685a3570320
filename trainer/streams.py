"""From a run description to the streams that a method trains on, and from batches to domains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch

from dataio.augment import apply
from dataio.loader import Batch, StreamSource
from dataio.manifest import MANIFEST_NAME, Manifest, load_manifest
from dataio.records import DataError
from trainer.config import ConfigError, RunConfig, Selection, nearest
from trainer.methods import METHODS, Domain

__all__ = ["data_fingerprint", "evaluation_source", "label_space", "to_domain", "training_sources"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@lru_cache(maxsize=8)
def _manifest(root: str) -> Manifest:
    return load_manifest(Path(root))


def _open(config: RunConfig, selection: Selection) -> Manifest:
    root = selection.root or config.data.root
    if not (Path(root) / MANIFEST_NAME).is_file():
        raise DataError(
            f"{root}: no data set here (no {MANIFEST_NAME}); make one with `img2shape data make "
            f"procedural --out {root}`, or name yours with data.root=FOLDER"
        )
    return _manifest(root)


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
        ConfigError: a selection's kind of samples is not what the method needs there, or
            ``data.classes`` names a class that no data set has, or lacks one that is trained on.
        DataError: a data set cannot be read, or a sample lacks the label that the method needs.
    """
    _require_classes_exist(config)
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
        if need.labelled:
            _require_labels(sources[name], where=f"data.{name}")
            _require_within_classes(sources[name], where=f"data.{name}")
    return sources


def evaluation_source(config: RunConfig, selection: Selection) -> StreamSource:
    """The stream of queries or gallery items: all views, labels visible, no augmentation.

    Classes outside the label space are welcome: retrieval needs no classifier.

    Raises:
        DataError: the data set cannot be read, or a sample has no label to score it by.
    """
    source = _source(config, selection, labelled=True, training=False)
    _require_labels(source, where=f"{selection.stream}/{selection.split}")
    return source


def _require_classes_exist(config: RunConfig) -> None:
    classes = config.data.classes or ()
    streams = METHODS[config.method_name].streams
    manifests = [_open(config, getattr(config.data, s)) for s in streams]
    known = sorted({name for manifest in manifests for name in manifest.classes})
    for name in classes:
        if name not in known:
            raise ConfigError(
                f"data.classes: the data set has no class '{name}'{nearest(name, known)}"
            )
    if len(set(classes)) < len(classes):
        raise ConfigError("data.classes: a class is named twice; name each once")


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
