"""``telemetry.json`` in the run folder: the current state of a run.

Rank 0 replaces the whole file after a step, at most once a second. It serves those who watch the
run and has no value afterwards. So it is not flushed to disk, and training goes on where it cannot
be written. Nothing in it reaches a batch, a loss, a checkpoint or ``log.jsonl``.

=================  ================================================================================
``format``         1
``attempt``        number of this start, as in ``run.json``; all counts begin at 0 with it
``time``           when this was written, Unix time
``step``           steps that are done: the position in the training
``last_step_time`` when the last of them ended, Unix time
``world_size``     processes that train
``phases``         seconds of rank 0 by phase, with their ``total`` (:class:`PhaseClock`)
``samples``        by stream: samples trained on by all ranks, padding not among them
``steps``          steps of this attempt
``step_seconds``   how long they took: ``sum``, and ``buckets`` with the number of steps of up to so
                   many seconds
``rank_skew``      slowest rank / mean - 1, of the time for own work between the last two logged
                   steps; 0 for one process
``read_bytes``     read of shards by all ranks (:mod:`dataio.shards.read_bytes`)
``cache_bytes``    of decoded samples that all ranks hold in memory
``bad_samples``    samples in quarantine of the data sets trained on; null if it cannot be read
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
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dataio.atomic import write_whole
from trainer.runs import CheckpointWriter, Written, finite_json
from trainer.synchronised import collectives
from trainer.watching.observer import Observer, ReadCounts
from trainer.watching.phase_clock import PhaseClock

log = logging.getLogger(__name__)
FORMAT = 1
EVERY_SECONDS = 1.0
# Upper bounds in seconds of the durations of steps, as Prometheus counts them.
STEP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# The phases in which a rank never waits for another one. Not `backward`: data-parallel engines
# average gradients in it, so the fast ranks wait there for the slow one. Collectives inside
# `forward` are a phase of their own. On a GPU these are times of the host. They show a slow loader
# or a busy CPU, but a slow GPU only as far as the host waits for it in these phases.
OWN_WORK = ("data", "copy", "augment", "forward")


class StepHistogram:
    """Counts steps by their duration."""

    def __init__(self) -> None:
        self._counts = [0] * (len(STEP_BUCKETS) + 1)
        self._sum = 0.0

    def add(self, seconds: float) -> None:
        """Count a step; a duration equal to a bound counts as within it."""
        self._counts[bisect_left(STEP_BUCKETS, seconds)] += 1
        self._sum += seconds

    def told(self) -> dict[str, Any]:
        """``sum`` of seconds and ``buckets``: by upper bound, the number of steps up to it."""
        count, buckets = 0, {}
        for bound, own in zip([*map(str, STEP_BUCKETS), "+Inf"], self._counts, strict=True):
            count += own
            buckets[bound] = count
        return {"sum": self._sum, "buckets": buckets}


class Telemetry(Observer):
    """Keeps the counts of one attempt; every rank has one, rank 0 writes the file.

    Args:
        path: of the file.
        writer: of the checkpoints; None on other ranks than 0.
        bad_samples: as in the table above.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: PhaseClock,
        writer: CheckpointWriter | None,
        device: torch.device,
        bad_samples: int | None = None,
    ) -> None:
        self._path, self._clock, self._device = path, clock, device
        self._writer, self._bad_samples = writer, bad_samples
        self._histogram = StepHistogram()
        self._samples: dict[str, int] = {}
        self._steps = 0
        self._loader: ReadCounts | None = None
        self._all_ranks: dict[str, float] = {"rank_skew": 0.0, "read_bytes": 0, "cache_bytes": 0}
        self._own_seconds, self._compared = 0.0, 0  # and steps, at the last logged step
        self._record: Mapping[str, Any] | None = None
        self._news = False  # there is a first record that the file does not have
        self._checkpoint: Written | None = None  # as the file has it
        self._last_step_time: float | None = None
        self._next_seconds = float("-inf")
        self._failed = False

    def started(self, step: int, loader: ReadCounts) -> None:
        self._loader = loader

    def recorded(self, record: dict[str, Any]) -> None:
        self._news = self._record is None
        self._record = record

    def stepped(self, step: int, batch: Mapping[str, Any], *, logged: bool) -> None:
        """Count the step; all ranks exchange their numbers where it was ``logged``."""
        self._steps += 1
        self._histogram.add(self._clock.step_seconds)
        for stream, part in batch.items():
            self._samples[stream] = self._samples.get(stream, 0) + part.count
        if logged:
            self._exchange()
        if self._writer is None:
            return
        self._last_step_time = time.time()
        now_seconds = time.monotonic()
        news = self._news or self._writer.last is not self._checkpoint
        if news or now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + EVERY_SECONDS
            self._write(step)

    def ended(self, step: int) -> None:
        self._exchange()
        if self._writer is not None:
            self._write(step)

    def _exchange(self) -> None:
        """Add up what the ranks have read and hold, and compare their time for own work."""
        assert self._loader is not None, "started() comes first"
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
        self._checkpoint, self._news = self._writer.last, False
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
