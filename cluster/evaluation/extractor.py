"""One process that makes parts of the embeddings of a trained run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from dataio.loading import StreamSource
from dataio.records import DataError
from evalsuite.vectors import Embeddings, Part, PartsWriter
from trainer.extraction import TrainedRun, extract, untrained
from trainer.methods import Method
from trainer.runs import naming
from trainer.sections import Selection


@dataclass(frozen=True)
class EmbeddingStream:
    """What to embed: ``selection`` of the run's data, into a folder called ``name``."""

    name: str
    selection: Selection
    initial: bool = False
    """With the weights that the network had before its first step."""


class Crew(Protocol):
    """Makes parts, in any order; calls ``on_items`` with the number of items now and then."""

    def __call__(
        self,
        stream: EmbeddingStream,
        writer: PartsWriter,
        numbers: Sequence[int],
        on_items: Callable[[int], None],
        /,
    ) -> Iterator[tuple[int, Part]]: ...


class Extractor:
    """Makes parts of any stream of one run, in this process."""

    def __init__(self, run: TrainedRun) -> None:
        self._run = run
        self._sources: dict[EmbeddingStream, StreamSource] = {}
        self._initial: Method | None = None
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def make(
        self,
        stream: EmbeddingStream,
        writer: PartsWriter,
        number: int,
        on_items: Callable[[int], None] | None = None,
    ) -> Part:
        """Embed and write one part.

        Raises:
            DataError: this process sees other data than the one that made ``writer``.
        """
        source = self._source(stream, writer)
        rows, config = writer.rows(number), self._run.config
        held = source.rows[rows.start : rows.stop]
        shown = [source.manifest.instances[row] for row in held]
        keys, labels, vectors = extract(
            self._method(stream),
            replace(source, rows=held),
            batch=config.evaluation.batch,
            precision=config.training.precision,
            device=self._device,
            on_items=on_items,
        )
        with naming(writer.folder):
            return writer.write(number, Embeddings(keys, labels, vectors, instances=shown))

    def _source(self, stream: EmbeddingStream, writer: PartsWriter) -> StreamSource:
        if stream not in self._sources:
            source = self._run.data.evaluation_source(stream.selection)
            if parts_fingerprint(self._run, stream, source) != writer.fingerprint:
                raise DataError(
                    f"{source.manifest.root}: a worker sees other data or another checkpoint there "
                    "than the command does; keep both on storage that all nodes share"
                )
            self._sources[stream] = source
        return self._sources[stream]

    def _method(self, stream: EmbeddingStream) -> Method:
        if not stream.initial:
            return self._run.method
        if self._initial is None:
            self._initial = untrained(self._run)
        return self._initial


def parts_fingerprint(run: TrainedRun, stream: EmbeddingStream, source: StreamSource) -> str:
    """Names the weights and the items: checkpoint, selection, data set, rows of its manifest.

    So it does with the objects that the items show, where the manifest names any.
    """
    selected = f"{stream.selection.stream}/{stream.selection.split}"
    state = "initial" if stream.initial else "trained"
    rows = hashlib.sha256(source.rows.astype("<i8").tobytes()).hexdigest()
    data = f"{source.manifest.fingerprint[:16]}:{rows[:16]}"
    instances = [source.manifest.instances[row] for row in source.rows]
    if any(instances):
        data += f":{hashlib.sha256(json.dumps(instances).encode()).hexdigest()[:16]}"
    return f"{run.fingerprint}:{state}:{selected}:{data}"
