"""What the commands that make data and train do: each function is one job."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from cluster.monitoring import monitored
from cluster.sinks import reporting
from cluster.tables import print_time_budget
from cluster.terminal import say, task
from cluster.training.group_size import GroupSize
from cluster.training.launching import launch
from dataio.datasets import STYLES, benchmark_name, make_procedural, procedural_shrec, records
from dataio.meshes import described, render_mesh
from dataio.packing import pack
from dataio.parallel import in_processes
from dataio.records import DataError
from dataio.shards import MANIFEST_NAME, Manifest, exists, load_manifest
from trainer.building import build_method
from trainer.config import RunConfig
from trainer.extraction import without_download
from trainer.inputs import class_mapping, label_space
from trainer.networks import measure
from trainer.runs import RunFolder, best_first, naming


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


def train_run(
    config: RunConfig, out: Path, *, workers: int | GroupSize, sinks: Sequence[str] = ()
) -> RunFolder:
    """Train with a progress bar, then print where the time went; continues ``out`` when it holds
    this run.

    Its metrics are exported meanwhile (:mod:`cluster.monitoring.run_monitoring`). A run that is
    finished already is left as it is. The errors are those of :func:`launch` and of
    :func:`cluster.sinks.sinks.open_sinks`, which ``sinks`` are names for.
    """
    mapping = class_mapping(config)
    if mapping is not None:
        say(f"classes: {_listed(mapping)}")
    if RunFolder(out).finished:
        folder = launch(config, out, workers=workers)
        say(f"{out}: was finished already, nothing to do")
        return folder
    with monitored(config, out) as monitor:
        with (
            reporting(sinks, config, out) as told,
            task(f"training {config.method_name}", config.training.steps) as bar,
        ):

            def on_record(record: dict[str, Any]) -> None:
                bar.at(record["step"] + 1, note=_note(record, config, RunFolder(out)))
                told.look()
                monitor.look()

            folder = launch(
                config, out, workers=workers, on_record=on_record, on_wait=monitor.waiting
            )
        _say_best(folder, config)
        facts = folder.read()
        if "step_timings" in facts:  # under torchrun, rank 0 may not have written them yet
            print_time_budget(facts)
    return folder


def _say_best(folder: RunFolder, config: RunConfig) -> None:
    """Which checkpoints the scores on the way choose, and how to take them."""
    validation, checkpoints = config.validation, list(folder.checkpoints.glob("step-*"))
    for select, name in (
        ("oracle", validation.metric),
        (validation.criterion, validation.criterion),
    ):
        best = best_first(checkpoints, name) if name is not None else []
        if best:
            shown = best[0].value_shown
            say(f"best by validation: {shown}; `img2shape eval --select {select}` takes it")


def _note(record: Mapping[str, Any], config: RunConfig, folder: RunFolder) -> str:
    """``loss 0.412, mAP 0.613 at step 400``: a record's loss and the newest scores on the way."""
    loss, validation = f"loss {record['loss']:.3f}", config.validation
    if validation.every is None or not folder.validation.exists():
        return loss
    lines = folder.validation.read_text().splitlines(keepends=True)
    scored = [json.loads(line) for line in lines[-1:] if line.endswith("\n")]
    found = [
        f"{name} {value:.3f} at step {s['step']}"
        for s in scored
        for name in (validation.metric, validation.criterion)
        if name is not None and (value := s["scores"].get(name)) is not None
    ]
    return ", ".join([loss, *found])


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
