"""What the commands do: each function is one job, from input files to output files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cluster.evaluate import gallery_transport
from cluster.group_size import GroupSize
from cluster.launch import launch
from cluster.pictures import Pictures
from cluster.progress import say, task
from cluster.tables import print_time_budget
from dataio.datasets import procedural_shrec
from dataio.datasets.procedural import benchmark_name, make_procedural, records
from dataio.datasets.procedural_files import STYLES
from dataio.location import exists
from dataio.manifest import MANIFEST_NAME, Manifest, load_manifest
from dataio.pack import pack
from dataio.parallel import in_processes
from dataio.records import DataError
from dataio.render import described
from dataio.rendered_shape import render_mesh
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
from trainer.building import build_method
from trainer.config import ConfigError, RunConfig
from trainer.data_sets import class_mapping, data_fingerprint, label_space
from trainer.extract import TrainedRun, extract, load_run, untrained, without_download
from trainer.methods import Method
from trainer.networks.complexity import measure
from trainer.retention import best_first
from trainer.run_folder import RunFolder
from trainer.streams import evaluation_source
from trainer.telemetry import naming

__all__ = [
    "evaluate_run",
    "make_benchmark",
    "model_complexity",
    "score_files",
    "train_run",
    "write_report",
]


def make_benchmark(
    out: Path,
    *,
    size: str,
    seed: int,
    style: str = "a",
    layout: str = "mi3dor",
    workers: int | None = None,
) -> Manifest:
    """Build the procedural benchmark in ``out``, or open what is there.

    The raw tree is in ``out/raw``. With the layout ``shrec`` its sketches and shapes are written a
    second time to ``out/raw-shrec``, as SHREC'14 distributes its own, and packed from there.

    Raises:
        DataError: unknown size, style or layout, or ``out`` holds another data set.
        OSError: the disk is full or ``out`` cannot be written.
    """
    if layout not in ("mi3dor", "shrec"):
        raise DataError(f"procedural: no layout '{layout}'; choose from mi3dor, shrec")
    name = benchmark_name(size, style=style, layout=layout)
    if (out / MANIFEST_NAME).exists():
        return _require_benchmark(load_manifest(out), name=name, seed=seed)
    with naming(out), task(f"{name}: shapes and pictures") as bar:
        raw = make_procedural(
            out / "raw", size=size, seed=seed, style=style, workers=workers, progress=bar.at
        )
    more: dict[str, Any] = {}
    if layout == "shrec":
        with naming(out), task(f"{name}: meshes and sketches") as bar:
            raw = procedural_shrec.write_as_shrec(raw, out / "raw-shrec", progress=bar.at)
        spec = STYLES[style]
        more = {
            "render": partial(render_mesh, spec=spec),
            "run": in_processes(workers),
            "metadata": {"render": described(spec)},
        }
    with naming(out), task("packing shards") as bar:
        return pack(
            procedural_shrec.records(raw) if layout == "shrec" else records(raw),
            out,
            dataset=name,
            shard_size_bytes=8 << 20,
            seed=seed,
            progress=bar.at,
            **more,
        )


def _require_benchmark(manifest: Manifest, *, name: str, seed: int) -> Manifest:
    packed = manifest.metadata.get("dataset")
    packed_seed = manifest.metadata.get("options", {}).get("seed")
    if (packed, packed_seed) != (name, seed):
        raise DataError(
            f"{manifest.root}: holds data set '{packed}' with seed {packed_seed}, not "
            f"'{name}' with seed {seed}; use another --out"
        )
    return manifest


def train_run(config: RunConfig, out: Path, *, workers: int | GroupSize) -> RunFolder:
    """Train with a progress bar, then print where the time went; continues ``out`` when it holds
    this run.

    A run that is finished already is left as it is. The errors are those of :func:`launch`.
    """
    mapping = class_mapping(config)
    if mapping is not None:
        say(f"classes: {_listed(mapping)}")
    if RunFolder(out).finished:
        folder = launch(config, out, workers=workers)
        say(f"{out}: was finished already, nothing to do")
        return folder
    with task(f"training {config.method_name}", config.training.steps) as bar:
        folder = launch(
            config,
            out,
            workers=workers,
            on_record=lambda r: bar.at(r["step"] + 1, note=_note(r, config, RunFolder(out))),
        )
    best = best_first(folder.checkpoints.glob("step-*"))
    if best:
        say(f"best by validation: {best[0].value_shown}; `img2shape eval --best` takes it")
    facts = folder.read()
    if "step_timings" in facts:  # under torchrun, rank 0 may not have written them yet
        print_time_budget(facts)
    return folder


def _note(record: Mapping[str, Any], config: RunConfig, folder: RunFolder) -> str:
    """``loss 0.412, mAP 0.613 at step 400``: a record's loss and the newest score on the way."""
    loss, metric = f"loss {record['loss']:.3f}", config.validation.metric
    if config.validation.every is None or not folder.validation.exists():
        return loss
    lines = folder.validation.read_text().splitlines(keepends=True)
    scored = [json.loads(line) for line in lines[-1:] if line.endswith("\n")]
    found = [(s["scores"].get(metric), s["step"]) for s in scored]
    return ", ".join(
        [loss, *(f"{metric} {v:.3f} at step {step}" for v, step in found if v is not None)]
    )


def _listed(mapping: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """``bed, sofa (couch in data/shrec14)``: each class, and where it is called otherwise."""
    shown = []
    for name, held in mapping.items():
        other = [
            f"{' and '.join(own)} in {data_set}"
            for data_set, own in held.items()
            if own and list(own) != [name]
        ]
        shown.append(f"{name} ({', '.join(other)})" if other else name)
    return ", ".join(shown)


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


def model_complexity(config: RunConfig) -> dict[str, Any]:
    """Parameters, multiply-adds and layers of a run's networks, without its data."""
    method = build_method(without_download(config), num_classes=_class_count(config))
    size, dtype = config.network.input_size, next(method.parameters()).dtype
    image = torch.zeros(1, 3, size, size, dtype=dtype)
    return asdict(measure(method, lambda: method.trace(image)))


def _class_count(config: RunConfig) -> int:
    absent = not exists(config.data.root, MANIFEST_NAME)
    if absent and config.data.classes is None and config.data.num_classes is not None:
        return config.data.num_classes
    return len(label_space(config))
