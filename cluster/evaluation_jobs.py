"""What the commands about finished runs do: embed, score, report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cluster.evaluate import gallery_transport
from cluster.pictures import Pictures
from cluster.progress import say, task
from evalsuite.embeddings import (
    Embeddings,
    EvaluationError,
    read_embeddings,
    write_embeddings,
)
from evalsuite.evaluate import Evaluation
from evalsuite.evaluate import evaluate as score
from evalsuite.options import Options
from evalsuite.report import build_report
from evalsuite.runs import load_run as view_run
from trainer.config import ConfigError
from trainer.data_sets import data_fingerprint
from trainer.extract import TrainedRun, extract, load_run, untrained
from trainer.methods import Method
from trainer.run_folder import RunFolder
from trainer.streams import evaluation_source
from trainer.telemetry import naming

__all__ = ["evaluate_run", "score_files", "write_report"]


def evaluate_run(
    path: Path,
    *,
    shards: int,
    protocol: str | None = None,
    actors: bool = False,
    best: bool = False,
) -> dict[str, Any]:
    """Embed queries and gallery, score them, and write both into the run folder.

    The result says under ``selection`` how the checkpoint was chosen: ``last``, ``given``, or
    ``oracle (METRIC on SPLIT)`` where labels of what is evaluated chose it.

    Args:
        path: run folder or checkpoint folder; a checkpoint's results go into ``evaluation`` inside
            the checkpoint's own folder of results ``<run>/at-<step>``.
        actors: gallery shards as Ray actors instead of in this process.
        best: of a run folder, the kept checkpoint with the best score instead of the newest; its
            results go where those of a checkpoint go.

    Raises:
        ConfigError: no checkpoint, with ``best`` none that has a score, or the data set is not the
            one the run was trained on.
        EvaluationError: unknown protocol, or the embeddings cannot be scored.
    """
    run = load_run(path, best=best)
    evaluation = run.config.evaluation
    options = Options(  # a wrong protocol is refused before minutes of embedding
        protocol=protocol or evaluation.protocol,
        features=evaluation.features,
        metric=evaluation.metric,
    )
    _require_same_data(run)
    if run.scored is not None:
        say(f"best checkpoint: {run.scored.value_shown}; labels chose it: {run.scored.selection}")
    folder = _results_folder(run.checkpoint.path.absolute() if best else path.absolute(), run)
    queries = _embeddings(run, folder, "queries", run.method)
    gallery = _embeddings(run, folder, "gallery", run.method)
    result = _score(queries, gallery, shards=shards, actors=actors, options=options)
    about = {"selection": _selection(path, run)}
    with naming(folder.evaluation):
        result.save(folder.evaluation, about=about)
    return {**result.to_json(), **about}


def _selection(path: Path, run: TrainedRun) -> str:
    if run.scored is not None:
        return run.scored.selection
    return "last" if (path / "run.json").exists() else "given"


def _require_same_data(run: TrainedRun) -> None:
    trained, found = run.checkpoint.description["fingerprint"], data_fingerprint(run.config)
    if trained != found:
        raise ConfigError(
            f"{run.checkpoint.path}: was trained on other data than '{run.config.data.root}' holds "
            "now; restore the data set it was trained on"
        )


def _results_folder(path: Path, run: TrainedRun) -> RunFolder:
    """The run folder itself for its newest state, a folder beside for one of its checkpoints."""
    if (path / "run.json").exists():
        return RunFolder(path)
    parent = path.parent.parent if path.parent.name == "checkpoints" else path
    return RunFolder(parent / f"at-{run.checkpoint.step:08d}")


def _embeddings(run: TrainedRun, folder: RunFolder, name: str, method: Method) -> Embeddings:
    """Embeddings of ``queries`` or ``gallery``: read when they are this checkpoint's, else made."""
    file = folder.embeddings / f"{name}.parquet"
    selection = getattr(run.config.data, name.removeprefix("initial-"))
    source = evaluation_source(run.config, selection)
    fingerprint = f"{run.fingerprint}:{name}:{source.manifest.fingerprint[:16]}"
    known = _known_embeddings(file)
    if known is not None and known.metadata.get("fingerprint") == fingerprint:
        return known
    with task(f"embedding {name}", len(source.rows)) as bar:
        done = 0

        def on_items(count: int) -> None:
            nonlocal done
            done += count
            bar.at(done)

        keys, labels, vectors = extract(
            method,
            source,
            batch=run.config.evaluation.batch,
            precision=run.config.training.precision,
            device=_device(),
            on_items=on_items,
        )
    embeddings = Embeddings(keys, labels, vectors, {"fingerprint": fingerprint})
    with naming(file):
        write_embeddings(file, embeddings)
    return embeddings


def _known_embeddings(file: Path) -> Embeddings | None:
    """What an earlier evaluation left; None if that is nothing, or no longer readable."""
    try:
        return read_embeddings(file, non_finite="keep")
    except EvaluationError:
        return None


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _score(
    queries: Embeddings,
    gallery: Embeddings,
    *,
    shards: int,
    actors: bool,
    options: Options,
) -> Evaluation:
    parts = {"features": options.features, "metric": options.metric}
    with (
        task("scoring the gallery", len(queries.keys)) as bar,
        gallery_transport(gallery, shards, actors=actors, **parts) as transport,
    ):
        return score(queries, gallery, transport=transport, progress=bar.at, **asdict(options))


def score_files(queries: Path, gallery: Path, *, shards: int, **options: Any) -> dict[str, Any]:
    """Score two Parquet files of embeddings; returns the JSON object of ``img2shape metrics``.

    Raises:
        EvaluationError: an unknown option, or files that cannot be read or compared.
    """
    chosen = Options(**options)
    non_finite = "keep" if chosen.nan_policy == "last" else "raise"
    q, g = (read_embeddings(file, non_finite=non_finite) for file in (queries, gallery))
    if q.width != g.width:
        raise EvaluationError(
            f"{queries} has vectors of {q.width} components, {gallery} of {g.width}; "
            "extract both with one network"
        )
    return _score(q, g, shards=shards, actors=False, options=chosen).to_json()


def write_report(runs: Sequence[Path], out: Path, *, title: str) -> Path:
    """One HTML page about evaluated runs; embeds the untrained network once for the comparison."""
    embedded = [p for p in runs if (RunFolder(p).embeddings / "queries.parquet").exists()]
    trained = {path: load_run(path) for path in embedded}
    for path, run in trained.items():
        before = untrained(run)
        for name in ("initial-queries", "initial-gallery"):
            _embeddings(run, RunFolder(path), name, before)
    views = [view_run(path) for path in runs]
    pictures = Pictures([(trained.get(path) or load_run(path)).config for path in runs])
    with naming(out), task("writing the report"):
        return build_report(views, out, title=title, pictures=pictures)
