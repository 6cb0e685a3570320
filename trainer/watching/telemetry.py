"""What a run says of itself right now: ``telemetry.json`` in the run folder.

Rank 0 replaces the file as a whole after a step, at most once a second. It is for whoever watches
the run and is worth nothing afterwards: it is not flushed to disk, and a folder that cannot be
written ends no training. Nothing in it reaches a batch, a loss, a checkpoint or ``log.jsonl``.

=================  ================================================================================
``format``         1
``attempt``        number of this start, as in ``run.json``; all counts begin at 0 with it
``time``           when this was written, Unix time
``step``           steps that are done: the position in the training
``last_step_time`` when the last of them ended, Unix time
``world_size``     processes that train
``phases``         seconds of rank 0 by phase, with their ``total``
(:mod:`trainer.watching.phase_clock`)
``samples``        by stream: samples trained on by all ranks, padding not among them
``steps``          steps of this attempt
``step_seconds``   how long they took: ``sum``, and ``buckets`` with the number of steps of up to so
                   many seconds
``rank_skew``      slowest rank / mean - 1, of the time for own work between the last two logged
                   steps; 0 for one process
``read_bytes``     read of shards by all ranks (:mod:`dataio.shards.read_bytes`)
``cache_bytes``    of decoded samples that all ranks hold in memory
``bad_samples``    in quarantine, of the data sets trained on; null when that cannot be read
``checkpoint``     the newest whole one: ``step``, ``time``, ``bytes``, and the ``seconds`` that
                   writing it took (null if an earlier attempt did); null if there is none
``record``         the last line of ``log.jsonl``
=================  ================================================================================

``rank_skew``, ``read_bytes`` and ``cache_bytes`` are those of the last logged step.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch

from dataio.atomic import write_whole
from trainer.runs import CheckpointWriter, Written, finite_json
from trainer.synchronised import collectives
from trainer.watching.phase_clock import PhaseClock
from trainer.watching.step_times import StepHistogram

log = logging.getLogger(__name__)
FORMAT = 1
EVERY_SECONDS = 1.0

# The phases in which a rank waits for no other. `backward` is none of them: data-parallel engines
# average gradients in it, so the fast ranks wait there for the slow one and all take equally long.
# Collectives inside `forward` are a phase of their own. On a GPU these are times of the host, which
# shows a slow loader or a busy CPU, and a slow GPU only as far as the host waits for it here.
OWN_WORK = ("data", "copy", "augment", "forward")


class Reads(Protocol):
    """What :class:`dataio.loading.loader.Loader` tells of its reading."""

    @property
    def read_bytes(self) -> int: ...

    @property
    def held_bytes(self) -> int: ...


class Live:
    """Keeps the counts of one attempt and writes the file; every rank has one, rank 0 writes.

    Args:
        path: of the file.
        writer: of the checkpoints; rank 0 has one.
        bad_samples: see the table above.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: PhaseClock,
        loader: Reads,
        writer: CheckpointWriter | None,
        device: torch.device,
        bad_samples: int | None = None,
    ) -> None:
        self._path, self._clock, self._loader, self._device = path, clock, loader, device
        self._writer, self._bad_samples = writer, bad_samples
        self._histogram = StepHistogram()
        self._samples: dict[str, int] = {}
        self._steps = 0
        self._all_ranks: dict[str, float] = {"rank_skew": 0.0, "read_bytes": 0, "cache_bytes": 0}
        self._own_seconds, self._compared = 0.0, 0  # and steps, at the last logged step
        self._record: Mapping[str, Any] | None = None
        self._checkpoint: Written | None = None  # the one that was told last
        self._last_step_time: float | None = None
        self._next_seconds = float("-inf")
        self._failed = False

    def stepped(
        self,
        step: int,
        batch: Mapping[str, Any],
        *,
        seconds: float,
        logged: bool,
        record: Mapping[str, Any] | None,
    ) -> None:
        """A step has ended; called by all ranks.

        Args:
            step: steps that are done now.
            batch: what the step was given, by stream; ``count`` is of the global batch.
            seconds: how long it took.
            logged: all ranks exchange their numbers now.
            record: what rank 0 has logged of it.
        """
        self._steps += 1
        self._histogram.add(seconds)
        for stream, part in batch.items():
            self._samples[stream] = self._samples.get(stream, 0) + part.count
        if logged:
            self._exchange()
        if self._writer is None:
            return
        self._last_step_time = time.time()
        news = self._record is None and record is not None  # the first ones
        news = news or self._writer.last is not self._checkpoint
        self._record = record or self._record
        now_seconds = time.monotonic()
        if news or now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + EVERY_SECONDS
            self._write(step)

    def end(self, step: int) -> None:
        """The training has ended or leaves, its last checkpoint is written; called by all ranks."""
        self._exchange()
        if self._writer is not None:
            self._write(step)

    def _exchange(self) -> None:
        """Add up what the ranks have read and hold, and compare their time for own work."""
        total_seconds = self._clock.seconds_in(OWN_WORK)
        mine_seconds, self._own_seconds = total_seconds - self._own_seconds, total_seconds
        mine = [mine_seconds, self._loader.read_bytes, self._loader.held_bytes]
        seconds, read, held = zip(*collectives.gather_numbers(mine, self._device), strict=True)
        self._all_ranks |= {"read_bytes": int(sum(read)), "cache_bytes": int(sum(held))}
        mean_seconds = sum(seconds) / len(seconds)
        if self._steps > self._compared and mean_seconds > 0:  # else there was no work
            self._all_ranks["rank_skew"] = max(seconds) / mean_seconds - 1
        self._compared = self._steps

    def _write(self, step: int) -> None:
        assert self._writer is not None
        self._checkpoint = self._writer.last
        told = {
            "format": FORMAT,
            "attempt": self._writer.attempt.number,
            "time": time.time(),
            "step": step,
            "last_step_time": self._last_step_time,
            "world_size": collectives.world_size(),
            "phases": self._clock.summary(),
            "samples": self._samples,
            "steps": self._steps,
            "step_seconds": self._histogram.told(),
            **self._all_ranks,
            "bad_samples": self._bad_samples,
            "checkpoint": self._checkpoint and asdict(self._checkpoint),
            "record": self._record,
        }
        text = json.dumps(finite_json(told)) + "\n"
        try:
            write_whole(self._path, text.encode(), durable=False, one_writer=True)
        except OSError as err:
            if not self._failed:
                log.warning("%s: cannot be written (%s); training goes on", self._path, err)
            self._failed = True
