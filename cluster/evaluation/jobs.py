"""What the commands about finished runs do: embed, score, report."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cluster.evaluation.extraction import (
    configured_options,
    configured_stream,
    embed,
    require_same_data,
    results_folder,
)
from cluster.evaluation.gallery_actors import gallery_transport
from cluster.evaluation.origins import sample_origins
from cluster.evaluation.pictures import SamplePictures
from cluster.terminal import say, task
from dataio.shards import Manifest
from evalsuite.scoring import (
    CurveName,
    Evaluation,
    InstanceEvaluation,
    LevelName,
    Options,
    evaluate,
    evaluate_instances,
    items_fingerprint,
    own_items,
    require_level,
    require_own_items,
    require_pairs,
)
from evalsuite.search import searched_space
from evalsuite.statistics import instance_intervals, proxy_a_distance
from evalsuite.vectors import (
    EmbeddingParts,
    Embeddings,
    EvaluationError,
    is_finished,
    open_parts,
    read_embeddings,
)
from trainer.extraction import TrainedRun, load_run
from trainer.runs import RunFolder, naming

logger = logging.getLogger(__name__)

# The SVM of the A-distance sees 1,000 items a domain and split. It needs no more rows than this.
ROWS_A_DOMAIN = 20_000
# Of the intervals of instance-level metrics; those of `img2shape compare` by default.
RESAMPLES, CONFIDENCE = 2000, 0.95


def evaluate_run(
    path: Path,
    *,
    shards: int = 1,
    protocol: str | None = None,
    actors: bool = False,
    shard_cpus: float | None = None,
    select: str = "last",
    workers: int = 0,
    arithmetic: str = "exact",
    measure_a_distance: bool = False,
    data: str | None = None,
    level: str = "class",
) -> dict[str, Any]:
    """Embed queries and gallery, score them, and write both into the run folder.

    The result says under ``selection`` how the checkpoint was chosen: ``last``, ``given``,
    ``oracle (METRIC on SPLIT)`` where labels of what is evaluated chose it, or ``CRITERION on
    STREAM/SPLIT`` where a criterion did, under ``step`` and ``score`` which one it was, and under
    ``gallery_fingerprint`` which shapes were searched.

    Args:
        path: run folder or checkpoint folder; a checkpoint's results go into ``evaluation`` inside
            the checkpoint's own folder of results ``<run>/at-<step>``.
        actors: gallery shards as Ray actors instead of in this process.
        shard_cpus: CPUs that such an actor reserves; None shares what the cluster has free.
        select: of a run folder, the newest checkpoint (``last``) or the kept one with the best
            score by the validation's metric (``oracle``) or by a criterion (``entropy``, ``im``,
            ``snd``, ``source-val``); its results go where those of a checkpoint go.
        arithmetic: ``exact`` or ``float32``, see ``evalsuite.scoring.options.Options``.
        workers: Ray actors that embed what has not been embedded; 0 works in this process.
        measure_a_distance: add ``a_distance``, how well the two domains can be told apart.
        data: where the run's data set lies now; None: where it was trained.
        level: ``instance`` adds ``instance``: how early the exact shape of each query is found,
            with an interval of each number.

    Raises:
        ConfigError: no checkpoint, none that has the score ``select`` asks for, or the data set is
            not the one the run was trained on.
        EvaluationError: unknown protocol, arithmetic or level, the embeddings cannot be scored, or
            no query is paired with a shape of the gallery.
    """
    wanted = require_level(level)
    run = load_run(path, select=select, data=data)
    choices = {"arithmetic": arithmetic} | ({"protocol": protocol} if protocol else {})
    # Before minutes of embedding, so that a wrong protocol is refused at once.
    options = configured_options(run, **choices)
    require_same_data(run)
    if wanted == "instance":
        require_pairs(*(_instances(run, side) for side in ("queries", "gallery")))
    if run.scored is not None:
        chosen = "labels" if run.scored.by_oracle else "no label of the target"
        say(f"best checkpoint: {run.scored.value_shown}; {chosen} chose it: {run.scored.selection}")
    folder = results_folder(path if run.scored is None else run.checkpoint.path, run)
    streams = [configured_stream(run, side) for side in ("queries", "gallery")]
    queries, gallery = embed(run, folder.embeddings, streams, workers=workers)
    result, exact = _score(
        # Actors read their own shards.
        queries.read(),
        gallery.folder if actors else gallery.read(),
        shards=shards,
        actors=actors,
        shard_cpus=shard_cpus,
        options=options,
        level=wanted,
    )
    about: dict[str, Any] = {
        "selection": _selection(path, run),
        "step": run.checkpoint.step,
        "score": None if run.scored is None else run.scored.value,
        "gallery_fingerprint": items_fingerprint(gallery.keys, gallery.labels),
    }
    if measure_a_distance:
        with task("measuring the A-distance"):
            about["a_distance"] = _a_distance(queries, gallery, options)
    if exact is not None:
        about["instance"] = described_instances(exact)
        result = _with_ranks(result, exact)
    with naming(folder.evaluation):
        result.save(folder.evaluation, about=about)
    return {**result.to_json(), **about}


def _instances(run: TrainedRun, side: str) -> list[str]:
    source = run.data.evaluation_source(configured_stream(run, side).selection, pictures=True)
    return [source.manifest.instances[row] for row in source.rows]


def described_instances(exact: InstanceEvaluation) -> dict[str, Any]:
    """The JSON object ``instance``: the values, and ``intervals`` with low and high of each."""
    with task("resampling the queries"):
        found = instance_intervals(exact, confidence=CONFIDENCE, resamples=RESAMPLES)
    intervals = {name: {"low": one.low, "high": one.high} for name, one in found.items()}
    about = {"confidence": CONFIDENCE, "resamples": RESAMPLES}
    return {**exact.to_json(), "intervals": intervals, **about}


def _with_ranks(result: Evaluation, exact: InstanceEvaluation) -> Evaluation:
    """The result with a column ``instance_rank`` in its per-query table, null where there is none.

    A file of its own would stay behind when the run is evaluated again without it.
    """
    ranks = np.zeros(exact.n_queries)
    missing = np.ones(exact.n_queries, dtype=bool)
    ranks[exact.rows], missing[exact.rows] = exact.ranks, False
    column = pa.array(ranks, mask=missing)
    return replace(result, per_query=result.per_query.append_column("instance_rank", column))


def _selection(path: Path, run: TrainedRun) -> str:
    if run.scored is not None:
        return run.scored.selection
    return "last" if (path / "run.json").exists() else "given"


def _score(
    queries: Embeddings,
    gallery: Embeddings | Path,
    *,
    shards: int,
    actors: bool,
    shard_cpus: float | None,
    options: Options,
    own: np.ndarray | None = None,
    level: LevelName = "class",
) -> tuple[Evaluation, InstanceEvaluation | None]:
    """The class metrics, and at the level ``instance`` those of exact shapes from the same
    shards."""
    exact = None
    with (
        task("scoring the gallery", len(queries.keys)) as bar,
        gallery_transport(
            gallery,
            shards,
            actors=actors,
            shard_cpus=shard_cpus,
            device=_scoring_device(options),
            instances=level == "instance",
            **options.shard_options,
        ) as transport,
    ):
        held = gallery if isinstance(gallery, Embeddings) else None
        asked: dict[str, Any] = {"options": options, "transport": transport, "own": own}
        result = evaluate(queries, held, progress=bar.at, **asked)
        if level == "instance":
            exact = evaluate_instances(queries, held, **asked)
    return result, exact


def _scoring_device(options: Options) -> str:
    """A GPU where there is one and the arithmetic is exact; it finds the same bits as a CPU."""
    cuda = torch.cuda.is_available() and options.arithmetic == "exact"
    return "cuda" if cuda else "cpu"


def _a_distance(queries: EmbeddingParts, gallery: EmbeddingParts, options: Options) -> float:
    """Proxy A-distance in the space that the search compares: 0 alike, 2 told apart without error.

    See ``evalsuite.statistics.proxy_a_distance``. At most 20,000 evenly spaced rows of each domain
    are read. Raises ``EvaluationError`` for fewer than 4 items in a domain or vectors with NaN or
    Inf.
    """
    sides = [searched_space(_sample(side), options) for side in (queries, gallery)]
    if not all(np.isfinite(side).all() for side in sides):
        raise EvaluationError("--a-distance: embeddings hold NaN or Inf; leave the option out")
    try:
        return proxy_a_distance(*sides)
    except ValueError as error:
        raise EvaluationError(f"--a-distance: {error}; leave the option out") from error


def _sample(side: EmbeddingParts) -> Embeddings:
    rows = np.unique(np.linspace(0, len(side) - 1, ROWS_A_DOMAIN).astype(np.int64))
    keys, labels = side.keys, side.labels
    return Embeddings([keys[r] for r in rows], [labels[r] for r in rows], side.vectors(rows))


def score_files(
    queries: Path,
    gallery: Path,
    *,
    shards: int,
    actors: bool = False,
    shard_cpus: float | None = None,
    drop_self: bool = False,
    level: str = "class",
    **options: Any,
) -> dict[str, Any]:
    """Score two files or folders of embeddings; returns the JSON object of ``img2shape metrics``.

    With ``drop_self`` the item that has a query's key is not in that query's ranking. The ``level``
    ``instance`` adds ``instance`` as :func:`evaluate_run` does.

    Raises:
        EvaluationError: an unknown option, files that cannot be read or compared, or no query whose
            instance the gallery has.
    """
    wanted = require_level(level)
    chosen = Options(**options)
    non_finite = "keep" if chosen.nan_policy == "last" else "raise"
    q = read_embeddings(queries, non_finite=non_finite)
    # Actors read their own shards of a folder.
    in_parts = actors and is_finished(gallery)
    g = gallery if in_parts else read_embeddings(gallery, non_finite=non_finite)
    if isinstance(g, Embeddings) and q.width != g.width:
        raise EvaluationError(
            f"{queries} has vectors of {q.width} components, {gallery} of {g.width}; "
            "extract both with one network"
        )
    named = g if isinstance(g, Embeddings) else open_parts(g)
    own = own_items(q, named)
    if wanted == "instance":
        require_pairs(q.instances, named.instances)
    if drop_self:
        require_own_items(q, named, own, level=wanted)
    warnings = []
    if not drop_self and (own >= 0).any():
        warnings.append(
            f"{(own >= 0).sum()} of {len(q)} queries are in the gallery under the same key; each "
            "finds itself first. --drop-self leaves each query out of its own ranking"
        )
        logger.warning("%s", warnings[0])
    result, exact = _score(
        q,
        g,
        shards=shards,
        actors=actors,
        shard_cpus=shard_cpus,
        options=chosen,
        own=own if drop_self else None,
        level=wanted,
    )
    scored = result.to_json()
    told: dict[str, Any] = {"drop_self": True} if drop_self else {}
    if exact is not None:
        told["instance"] = described_instances(exact)
    return {**scored, **told, "warnings": [*warnings, *scored["warnings"]]}


def write_report(
    runs: Sequence[Path], out: Path, *, title: str, curve: CurveName = "pooled"
) -> Path:
    """One HTML page about evaluated runs; embeds the untrained network once for the comparison.

    ``curve`` is the precision-recall curve that it draws.
    """
    from evalsuite.pages import build_report, view_run  # loads matplotlib

    embedded = [p for p in runs if is_finished(RunFolder(p).embeddings / "queries")]
    opened: dict[str, Manifest] = {}
    trained = {path: load_run(path, opened=opened) for path in embedded}
    for path, run in trained.items():
        sides = (configured_stream(run, side) for side in ("queries", "gallery"))
        before = [replace(side, name=f"initial-{side.name}", initial=True) for side in sides]
        embed(run, RunFolder(path).embeddings, before)
    views = [view_run(path) for path in runs]
    data = [(trained.get(path) or load_run(path, opened=opened)).data for path in runs]
    pictures, origins = SamplePictures(data), sample_origins(data)
    with naming(out), task("writing the report"):
        return build_report(
            views, out, title=title, pictures=pictures, origins=origins, curve=curve
        )
