"""The observer that saves: all ranks gather the state, rank 0 writes it while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from trainer.config import RunConfig
from trainer.runs import Checkpoint, Retention, RunFolder, take_over
from trainer.synchronised import collectives
from trainer.watching.observer import Observer, ReadCounts
from trainer.watching.phase_clock import PhaseClock


class Checkpoints(Observer):
    """Takes the run folder over for this start of the run, and saves the state whenever asked.

    Made by all ranks together; they raise together what stands in the way.

    Args:
        description: what identifies the run, for ``checkpoint.json``.
        state: gathers the whole state; called on every rank, since an engine that shards its
            state needs all of them.
        scores: of the state after a number of steps, where it was validated.
        reason: why a launcher starts the run again, for ``attempts.jsonl``.

    Attributes:
        writer: rank 0's; None on the others.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        *,
        description: dict[str, Any],
        state: Callable[[], dict[str, Any]],
        scores: Callable[[int], Mapping[str, float]],
        clock: PhaseClock,
        reason: str | None = None,
    ) -> None:
        self._state, self._scores, self._clock, self._reason = state, scores, clock, reason
        self.writer = take_over(
            folder,
            description=description,
            keep=Retention.of(config),
            background=config.training.async_checkpoints,
        )

    def resumed(self, found: Checkpoint) -> None:
        if self.writer:
            self.writer.resumed(found.path, step=found.step)

    def started(self, step: int, loader: ReadCounts) -> None:
        if self.writer:
            self.writer.attempt.begin(
                step=step, world_size=collectives.world_size(), reason=self._reason
            )

    def saving(self, step: int, *, last: bool) -> None:
        """Rank 0 copies the state, equal on all ranks, and starts to write the copy.

        The ``last`` checkpoint is waited for, so that it is on disk when any rank returns.

        Raises:
            OSError: this write or the one before failed; on every rank.
            SupersededError: a later start of the run has taken the folder over; on every rank.
        """
        with self._clock.phase("checkpoint"):
            state = self._state()
            failure: Exception | None = None
            if self.writer:
                try:
                    self.writer.write(state, step=step, scores=self._scores(step))
                    if last:
                        self.writer.wait()
                except Exception as err:  # whatever it is, the other ranks wait to hear of it
                    failure = err
            collectives.raise_together(failure)

    def close(self) -> None:
        if self.writer:
            self.writer.close()
