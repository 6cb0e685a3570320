"""Extraction of embeddings: streams of a trained run to folders of Parquet parts.

A stream is cut into parts of whole forward batches. So an item has the same neighbours in its
forward pass at any number of workers, in a first call or one that continues. Its vector has the
same bytes wherever the arithmetic is the same (processor, threads, libraries).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from cluster.evaluation.extraction_actors import extraction_actors
from cluster.evaluation.extractor import Crew, EmbeddingStream, Extractor, parts_fingerprint
from cluster.terminal import say, shown, task
from dataio.records import DataError
from dataio.shards import MANIFEST_NAME, exists, is_remote
from evalsuite.scoring import Options
from evalsuite.vectors import (
    Dtype,
    EmbeddingParts,
    Part,
    PartsWriter,
    default_part_rows,
)
from trainer.config import ConfigError
from trainer.extraction import TrainedRun, load_run
from trainer.runs import RunFolder, naming
from trainer.sections import Selection

SIDES = ("queries", "gallery")


def configured_stream(run: TrainedRun, side: str, *, split: str | None = None) -> EmbeddingStream:
    """The run's ``queries`` or ``gallery``; those of another split have a name of their own.

    Raises:
        ConfigError: no such split.
    """
    selection: Selection = getattr(run.config.data, side)
    if split in (None, selection.split):
        return EmbeddingStream(side, selection)
    splits = ("train", "val", "test", "all")
    if split not in splits:
        raise ConfigError(f"--split {split}: expected one of {', '.join(splits)}")
    return EmbeddingStream(f"{side}-{split}", selection.model_copy(update={"split": split}))


def configured_options(run: TrainedRun, **choices: Any) -> Options:
    """The run's options of an evaluation, those in ``choices`` in their place."""
    return Options(**run.config.evaluation.options() | choices)


def embed_run(
    path: Path,
    *,
    what: str = "both",
    split: str | None = None,
    workers: int = 0,
    dtype: str = "float32",
    out: Path | None = None,
    select: str = "last",
    data: str | None = None,
) -> dict[str, Any]:
    """What ``img2shape embed`` does; the arguments are those of the command.

    Returns JSON values: run, step, and for each stream its folder, rows, width, dtype, fingerprint,
    number of parts, how many rows were made by this call, and the seconds of the call.

    Raises:
        ConfigError, DataError: as ``load_run`` and ``OpenData``, or an unknown choice.
        EvaluationError: a value that ``dtype`` cannot hold, or workers that die again and again.
        OSError: a folder cannot be written.
    """
    if what not in (*SIDES, "both"):
        raise ConfigError(f"--what {what}: expected one of {', '.join(SIDES)}, both")
    if dtype not in get_args(Dtype):
        raise ConfigError(f"--dtype {dtype}: expected one of {', '.join(get_args(Dtype))}")
    start_seconds = time.monotonic()
    run = load_run(path, select=select, data=data)
    require_same_data(run)
    folder = (
        out or results_folder(path if run.scored is None else run.checkpoint.path, run).embeddings
    )
    streams = [
        configured_stream(run, side, split=split) for side in (SIDES if what == "both" else (what,))
    ]
    if out is None and dtype != "float32":  # evaluation reads the plain names, in float32
        streams = [replace(stream, name=f"{stream.name}-{dtype}") for stream in streams]
    made: dict[str, int] = {}
    embedded = embed(run, folder, streams, workers=workers, dtype=cast(Dtype, dtype), made=made)
    for stream, parts in zip(streams, embedded, strict=True):
        say(
            f"{stream.name}: {len(parts)} embeddings of {parts.width} components ({parts.dtype}) "
            f"in {shown(parts.folder)}"
        )
    return {
        "run": str(shown(path)),
        "step": run.checkpoint.step,
        "streams": {
            stream.name: {
                "folder": str(shown(parts.folder)),
                "rows": len(parts),
                "width": parts.width,
                "dtype": parts.dtype,
                "fingerprint": parts.fingerprint,
                "parts": len(parts.parts),
                "made": made[stream.name],
            }
            for stream, parts in zip(streams, embedded, strict=True)
        },
        "seconds": round(time.monotonic() - start_seconds, 3),
    }


def embed(
    run: TrainedRun,
    folder: Path,
    streams: Sequence[EmbeddingStream],
    *,
    workers: int = 0,
    dtype: Dtype = "float32",
    made: dict[str, int] | None = None,
) -> list[EmbeddingParts]:
    """Embeddings of ``streams`` in ``folder/<name>``, every item exactly once.

    Whole parts of an earlier call with the same weights, data and dtype are kept; only the others
    are made.

    Args:
        workers: Ray actors, which load the checkpoint themselves; 0 works in this process.
        made: gets the number of rows made by this call, by name.

    Raises:
        DataError: a stream has no items, one without a label, or one that cannot be read; or a
            worker sees other data.
        EvaluationError: a value that ``dtype`` cannot hold, or workers that die again and again.
        OSError: ``folder`` cannot be written.
    """
    counts = made if made is not None else {}
    writers = [_writer(run, folder, stream, dtype) for stream in streams]
    found: list[dict[int, Part]] = []
    for writer in writers:
        with naming(writer.folder):
            found.append(writer.begin())
    missing = [
        [n for n in range(len(w)) if n not in f] for w, f in zip(writers, found, strict=True)
    ]
    if any(missing):
        with _crew(run, min(workers, sum(map(len, missing)))) as crew:
            for stream, writer, parts, numbers in zip(
                streams, writers, found, missing, strict=True
            ):
                if numbers:
                    parts |= _filled(crew, stream, writer, numbers)
    for stream, writer, numbers in zip(streams, writers, missing, strict=True):
        counts[stream.name] = sum(len(writer.rows(number)) for number in numbers)
    results = []
    for writer, parts in zip(writers, found, strict=True):
        with naming(writer.folder):
            results.append(writer.finish(parts.values()))
    return results


def _filled(
    crew: Crew, stream: EmbeddingStream, writer: PartsWriter, numbers: Sequence[int]
) -> dict[int, Part]:
    """Make the parts ``numbers`` while a bar shows the progress."""
    total = sum(len(writer.rows(number)) for number in numbers)
    if total < writer.total:
        kept = writer.total - total
        say(f"{stream.name}: continuing, {kept} of {writer.total} were embedded already")
    with task(f"embedding {stream.name}", total) as bar:
        done = 0

        def on_items(count: int) -> None:
            nonlocal done
            done += count
            bar.at(done)

        return dict(crew(stream, writer, numbers, on_items))


def _writer(run: TrainedRun, folder: Path, stream: EmbeddingStream, dtype: Dtype) -> PartsWriter:
    source = run.data.evaluation_source(stream.selection)
    total = len(source.rows)
    return PartsWriter(
        folder.absolute() / stream.name,
        fingerprint=parts_fingerprint(run, stream, source),
        total=total,
        dtype=dtype,
        part_rows=default_part_rows(total, batch=run.config.evaluation.batch),
    )


@contextmanager
def _crew(run: TrainedRun, workers: int) -> Iterator[Crew]:
    if workers:
        with extraction_actors(run.checkpoint.path.absolute(), workers) as crew:
            yield crew
        return
    extractor = Extractor(run)

    def here(
        stream: EmbeddingStream,
        writer: PartsWriter,
        numbers: Sequence[int],
        on_items: Callable[[int], None],
        /,
    ) -> Iterator[tuple[int, Part]]:
        for number in numbers:
            yield number, extractor.make(stream, writer, number, on_items)

    yield here


def require_same_data(run: TrainedRun) -> None:
    """Raise ``ConfigError`` unless the run's data set is there and is what it was trained on."""
    root = run.config.data.root
    try:
        found = run.data.fingerprint
    except DataError:
        if is_remote(root) or exists(root, MANIFEST_NAME):
            raise  # this data set is there but damaged, or another one of the run is missing
        raise ConfigError(
            f"{root}: no data set here (no {MANIFEST_NAME}), but {run.checkpoint.path} was trained "
            "on it; say where it lies now: --data FOLDER"
        ) from None
    if run.checkpoint.description["fingerprint"] != found:
        raise ConfigError(
            f"{run.checkpoint.path}: was trained on other data than '{root}' holds now; restore "
            "the data set it was trained on, or say where it lies: --data FOLDER"
        )


def results_folder(path: Path, run: TrainedRun) -> RunFolder:
    """The run folder itself for its newest state, a folder in it for one of its checkpoints."""
    path = path.absolute()
    if (path / "run.json").exists():
        return RunFolder(path)
    parent = path.parent.parent if path.parent.name == "checkpoints" else path
    return RunFolder(parent / f"at-{run.checkpoint.step:08d}")
