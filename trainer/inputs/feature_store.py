"""Outputs of a trunk's frozen stages, computed once for each stream and transform, and kept.

A store is a folder of parts, named by a hash of what the features depend on: the frozen weights,
the pictures, the preprocessing and the augmentation. So all runs, seeds and ranks that need the
same features share one store, and nothing else ever finds it. Processes divide the parts among
themselves with a lock on each; a part is written whole or not at all, its name has the hash of its
content, and a process that dies loses the part that it was computing.

Axis letters: n samples, V views, H×W pixels, A×B×C one picture's features.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataio.atomic import write_whole
from dataio.file_locks import locked, locked_at_once
from dataio.loading import (
    AugmentConfig,
    SampleTable,
    StoredFeatures,
    Stream,
    StreamSource,
    apply,
    draw,
)
from trainer.config import RunConfig
from trainer.methods import Method
from trainer.networks import Backbone, Modality

log = logging.getLogger(__name__)

_FOLDER = "IMG2SHAPE_FEATURES"
_VERSION = 2
_PART_PICTURES = 512
_PASS_PICTURES = 64  # the same always: rounding may depend on it
_COPIES_SEED = 0  # not the run's: runs with other seeds share the copies


class FeatureStore:
    """The stores of one method's frozen stages.

    Args:
        method: with the weights that it starts from; they are whole while stores are computed.
        beat: called with every few pictures.
    """

    def __init__(
        self,
        config: RunConfig,
        method: Method,
        *,
        dtype: torch.dtype,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._config, self._method, self._dtype = config, method, dtype
        self._beat = beat
        self._weights: dict[str, str] = {}
        self._known: dict[str, StoredFeatures] = {}

    def attached(self, source: StreamSource) -> StreamSource:
        """``source`` with the features of its trunk, or as it is where its trunk has no frozen
        stages; they are computed when they are first read."""
        if not self._trunk(source).frozen:
            return source
        copies = self._config.training.feature_copies if source.augment is not None else 0

        @cache  # every walk of the stream asks
        def stores(augmented: bool) -> tuple[StoredFeatures, ...]:
            if not augmented or copies == 0:
                return (self._stored(source, copy=None),)
            return tuple(self._stored(source, copy=copy) for copy in range(copies))

        return replace(source, features=stores)

    def _trunk(self, source: StreamSource) -> Backbone:
        return self._method.trunk_of(_modality(source))

    def _stored(self, source: StreamSource, *, copy: int | None) -> StoredFeatures:
        """One store of a stream, computed if it is not there; None: pictures as they are."""
        augment = None if copy is None else source.augment
        trunk = self._trunk(source)
        facts = self._facts(source, trunk, augment=augment, copy=copy)
        text = json.dumps(facts, sort_keys=True)
        key = hashlib.sha256(text.encode()).hexdigest()[:32]
        if key not in self._known:
            folder = feature_folder(self._config) / key
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "facts.json").exists():
                write_whole(folder / "facts.json", (text + "\n").encode())
            rows = np.asarray(source.rows, dtype=np.int64)
            make = _Maker(trunk, source, dtype=self._dtype, augment=augment, copy=copy)
            paths = self._complete(folder, make)
            self._known[key] = StoredFeatures(rows, tuple(paths), make.samples)
        return self._known[key]

    def _complete(self, folder: Path, make: _Maker) -> list[Path]:
        """All parts of a store: those that are there, those that this process computes, and those
        of other processes, which it waits for."""
        found: dict[int, Path] = {}
        # Each process begins elsewhere; those that another one is at come last.
        first = int.from_bytes(os.urandom(4), "little") % make.count
        order = [*range(first, make.count), *range(first)]
        said = False
        for waits in (False, True):
            for number in order:
                if number in found:
                    continue
                path = whole_part(folder, number)
                if path is None and not said:
                    log.info("computing features of frozen stages: %s", folder)
                    said = True
                if path is None:
                    path = self._computed(folder, number, make, waits=waits)
                if path is not None:
                    found[number] = path
        return [found[number] for number in range(make.count)]

    def _computed(self, folder: Path, number: int, make: _Maker, *, waits: bool) -> Path | None:
        """A part that was missing; None where another process is at it and ``waits`` is not set."""
        lock = folder / f"part-{number:05d}.lock"
        with locked(lock) if waits else locked_at_once(lock) as held:
            if held is None:
                return None
            path = whole_part(folder, number)
            if path is not None:
                return path
            written = io.BytesIO()
            np.save(written, make.part(number, beat=self._beat))
            data = written.getvalue()
            digest = hashlib.sha256(data).hexdigest()[:16]
            path = folder / f"part-{number:05d}-{digest}.npy"
            write_whole(path, data)
            return path

    def _facts(
        self,
        source: StreamSource,
        trunk: Backbone,
        *,
        augment: AugmentConfig | None,
        copy: int | None,
    ) -> dict[str, Any]:
        """All that a store's features depend on."""
        manifest, network = source.manifest, self._config.network.of(_modality(source))
        content = hashlib.sha256()
        for row in source.rows.tolist():
            content.update(bytes.fromhex(manifest.content_sha256[row]))
        content.update(np.asarray(source.rows, dtype="<i8").tobytes())
        return {
            "version": _VERSION,
            "pictures": content.hexdigest(),
            "image_size": source.image_size,
            "fit": source.fit,
            "preprocessing": asdict(source.preprocessing),
            "augment": None if augment is None else asdict(augment),
            "copy": copy,
            # The layers, since the same weights give other features with another activation.
            "network": hashlib.sha256(repr(trunk).encode()).hexdigest(),
            "backbone": network.backbone,
            "pool_tokens": network.pool_tokens,
            "frozen": trunk.frozen,
            "weights": self._weights_of(trunk),
            "dtype": str(self._dtype),
        }

    def _weights_of(self, trunk: Backbone) -> str:
        """Hash of the frozen part's weights."""
        name = str(id(trunk))
        if name not in self._weights:
            found = hashlib.sha256()
            for key, value in sorted(trunk.state_dict().items()):
                if trunk.is_frozen(key):
                    found.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
                    found.update(value.detach().cpu().contiguous().numpy().tobytes())
            self._weights[name] = found.hexdigest()
        return self._weights[name]


def _modality(source: StreamSource) -> Modality:
    return "shape" if bool((source.manifest.streams[source.rows] == "shape").any()) else "image"


class _Maker:
    """Computes the parts of one store.

    Attributes:
        samples: of every part but the last.
        count: number of parts.
    """

    def __init__(
        self,
        trunk: Backbone,
        source: StreamSource,
        *,
        dtype: torch.dtype,
        augment: AugmentConfig | None,
        copy: int | None,
    ) -> None:
        self._trunk, self._source, self._dtype = trunk, source, dtype
        self._augment, self._copy = augment, copy
        self._stream: Stream | None = None
        views = max(1, int(source.manifest.views[source.rows].max()))
        self.samples = max(1, _PART_PICTURES // views)
        self.count = -(-len(source.rows) // self.samples)

    def part(self, number: int, *, beat: Callable[[], None]) -> np.ndarray:
        """Features [n, V, A, B, C] of the samples of one part."""
        if self._stream is None:
            table = SampleTable.of(self._source)
            self._stream = Stream(self._source, table, labels=None)
        start = number * self.samples
        positions = np.arange(start, min(start + self.samples, len(self._source.rows)))
        views = self._stream.all_views(positions)
        pixels, _ = self._stream.reader.read(positions, views)
        jitter = None
        if self._augment is not None:
            assert self._copy is not None
            drawn = draw(
                self._augment,
                seed=_COPIES_SEED,
                pass_index=self._copy,
                rows=self._stream.table.rows[positions],
                views=views.shape[1],
                window=self._source.window,
            )
            jitter = torch.from_numpy(drawn).flatten(0, 1)
        made = [*self._passes(pixels.flatten(0, 1), jitter, beat=beat)]
        return np.concatenate(made).reshape(*views.shape, *made[0].shape[1:])

    def _passes(
        self, pixels: torch.Tensor, jitter: torch.Tensor | None, *, beat: Callable[[], None]
    ) -> Iterator[np.ndarray]:
        training = self._trunk.training
        self._trunk.eval()
        device = next(self._trunk.parameters()).device
        for begin in range(0, len(pixels), _PASS_PICTURES):
            here = slice(begin, begin + _PASS_PICTURES)
            x = apply(
                pixels[here].to(device),
                None if jitter is None else jitter[here].to(device),
                size=self._source.image_size,
                preprocessing=self._source.preprocessing,
            )
            yield self._trunk.front(x.to(self._dtype)).cpu().numpy()
            beat()
        self._trunk.train(training)


def feature_folder(config: RunConfig) -> Path:
    """Where stores lie: ``training.feature_store``, ``IMG2SHAPE_FEATURES`` or a folder in the
    user's cache."""
    default = os.environ.get(_FOLDER) or Path.home() / ".cache" / "img2shape" / "features"
    return Path(config.training.feature_store or default)


def whole_part(folder: Path, number: int) -> Path | None:
    """The part if it is there with the content that its name says; a damaged one is removed."""
    for path in sorted(folder.glob(f"part-{number:05d}-*.npy")):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        if path.stem.endswith(digest):
            return path
        log.warning("%s: other content than when it was written; computing it again", path)
        path.unlink(missing_ok=True)
    return None
