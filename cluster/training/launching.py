"""A run in one process, in those of ``torchrun``, or in Ray Train workers; the loop is the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.terminal import stop_on_signal
from cluster.training.group_size import GroupSize
from cluster.training.ray_workers import train_on_ray
from trainer.config import ConfigError, RunConfig
from trainer.engines import require_supported
from trainer.inputs import OpenData
from trainer.loop import train
from trainer.runs import RunFolder
from trainer.synchronised import broadcast_object, process_group, rank
from trainer.validation import require_scorable

OnRecord = Callable[[dict[str, Any]], None]


def launch(
    config: RunConfig,
    out: Path,
    *,
    workers: int | GroupSize,
    on_record: OnRecord | None = None,
    on_wait: Callable[[], None] | None = None,
    data: OpenData | None = None,
) -> RunFolder:
    """Train ``config`` in folder ``out`` and return the folder; continues the run that it holds.

    Args:
        workers: 0 trains in this process; a number N > 0 or a range starts Ray Train workers.
            ``torchrun`` has started processes, so under it ``workers`` is ignored.
        on_record: called in this process with every logged step.
        on_wait: called when a group of workers waits for room in the cluster.
        data: the run's data where they are open already.

    Raises:
        ConfigError, DataError, NonFiniteError: bad options, bad data, diverged training.
        OSError: the folder cannot be written.
        RunFailed: workers died more often than ``training.max_failures``.
        KeyboardInterrupt: Ctrl-C; a checkpoint of the last step was saved.
    """
    folder = RunFolder(out.absolute())
    # Bad data and selections are refused before anything is written.
    data = data or OpenData(config)
    require_trainable(data)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with process_group(timeout_seconds=config.training.timeout_seconds):
            if not _claimed_by_leader(data, folder):
                _train_here(data, folder, on_record=on_record)
        return folder
    _claim(data, folder)
    if folder.finished:
        return folder
    size = workers if isinstance(workers, GroupSize) else GroupSize(workers, workers)
    if size.most == 0:
        _train_here(data, folder, on_record=on_record)
    else:
        train_on_ray(
            config,
            folder,
            size,
            on_record=on_record or (lambda record: None),
            on_wait=on_wait or (lambda: None),
        )
    return folder


def require_trainable(data: OpenData) -> None:
    """Refuse a run that its engine or its data cannot train or score; writes nothing.

    Raises:
        ConfigError, DataError: what is missing.
    """
    require_supported(data.config)
    data.require_trainable()
    require_scorable(data)


def _claim(data: OpenData, folder: RunFolder) -> None:
    folder.claim(data.config, fingerprint=data.fingerprint, dataset=data.dataset)


def _claimed_by_leader(data: OpenData, folder: RunFolder) -> bool:
    """Rank 0 claims the folder; all ranks return whether its run is finished, or raise alike."""
    finished: bool | Exception = False
    if rank() == 0:
        try:
            _claim(data, folder)
            finished = folder.finished
        except (ConfigError, OSError) as err:
            finished = err
    finished = broadcast_object(finished)
    if isinstance(finished, Exception):
        raise finished
    return finished


def _train_here(data: OpenData, folder: RunFolder, *, on_record: OnRecord | None) -> None:
    with stop_on_signal() as stopped:
        train(data.config, folder, on_record=on_record, stop=stopped.is_set, data=data)
    if stopped.is_set():
        raise KeyboardInterrupt
