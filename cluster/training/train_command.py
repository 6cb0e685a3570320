"""What ``img2shape train`` does: launch a run, show its progress, export its metrics."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.monitoring import monitored
from cluster.sinks import reporting
from cluster.tables import print_time_budget
from cluster.terminal import say, task
from cluster.training.group_size import GroupSize
from cluster.training.launching import launch
from evalsuite.run_records import read_records
from trainer.building import trunk_cautions
from trainer.config import RunConfig
from trainer.inputs import OpenData, differing_renderings
from trainer.runs import RunFolder, best_first

logger = logging.getLogger(__name__)


def train_run(
    config: RunConfig, out: Path, *, workers: int | GroupSize, sinks: Sequence[str] = ()
) -> RunFolder:
    """Train in folder ``out`` with a progress bar, then print where the time went.

    Continues the run that the folder holds; a finished run is left as it is. ``sinks`` are names of
    :data:`cluster.sinks.sinks.SINKS`. Raises what :func:`cluster.training.launching.launch` and
    :func:`cluster.sinks.sinks.open_sinks` raise.
    """
    data = OpenData(config)
    if data.mapping is not None:
        say(f"classes: {_listed(data.mapping)}")
    if RunFolder(out).finished:
        folder = launch(config, out, workers=workers, data=data)
        say(f"{out}: was finished already, nothing to do")
        return folder
    for problem, remedy in trunk_cautions(config):
        logger.warning("%s; %s", problem, remedy)
    for difference in differing_renderings(data):
        logger.warning("%s", difference)
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
                config,
                out,
                workers=workers,
                on_record=on_record,
                on_wait=monitor.waiting,
                data=data,
            )
        _say_best(folder, config)
        facts = folder.read()
        if "step_timings" in facts:  # under torchrun, rank 0 may not have written them yet
            print_time_budget(facts)
    return folder


def _say_best(folder: RunFolder, config: RunConfig) -> None:
    """Name the checkpoints that validation chooses, and the option that takes each."""
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
    """``loss 0.412, mAP 0.613 at step 400``: a record's loss and the newest validation scores."""
    loss, validation = f"loss {record['loss']:.3f}", config.validation
    if validation.every is None:
        return loss
    found = [
        f"{name} {value:.3f} at step {s['step']}"
        for s in read_records(folder.validation)[-1:]
        for name in (validation.metric, validation.criterion)
        if name is not None and (value := s["scores"].get(name)) is not None
    ]
    return ", ".join([loss, *found])


def _listed(mapping: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """``bed, sofa (couch in data/shrec14)``: each class, and its other names in data sets."""
    shown = []
    for name, held in mapping.items():
        other = [
            f"{' and '.join(own)} in {data_set}"
            for data_set, own in held.items()
            if own and list(own) != [name]
        ]
        shown.append(f"{name} ({', '.join(other)})" if other else name)
    return ", ".join(shown)
