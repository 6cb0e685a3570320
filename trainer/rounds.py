"""What a method computes from whole streams: at the start of a round, and as a last fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from dataio.loading import StreamSource
from trainer.building import DTYPES
from trainer.config import RunConfig
from trainer.engines import Strategy, evaluating
from trainer.inputs import walk_stream
from trainer.methods import Domain, Method
from trainer.synchronised import collectives
from trainer.watching import PhaseClock


class Rounds:
    """Starts the rounds of a method and its last fit; all ranks call every method together.

    Attributes:
        health: signals of the newest round, which every record of the round carries.
    """

    def __init__(
        self,
        method: Method,
        strategy: Strategy,
        *,
        config: RunConfig,
        sources: Mapping[str, StreamSource],
        device: torch.device,
        clock: PhaseClock,
    ) -> None:
        self._method, self._strategy, self._config = method, strategy, config
        self._sources, self._device, self._clock = sources, device, clock
        self.health: dict[str, float] = {}

    def start(self, step: int) -> None:
        """Let the method renew its state if a round starts at ``step``."""
        steps = self._config.training.steps
        total = self._method.rounds(steps)
        first_steps = {number * steps // total: number for number in range(total)}
        if step in first_steps:
            with self._clock.phase("round"), evaluating(self._method, self._strategy):
                health = self._method.start_round(first_steps[step], total, self.walk)
            self.health = {name: float(value) for name, value in health.items()}

    def finish(self) -> None:
        """The method's last fit, after the last step."""
        with self._clock.phase("finish"), evaluating(self._method, self._strategy):
            self._method.finish(self.walk)

    def walk(self, stream: str) -> Iterator[Domain]:
        """This rank's part of a training stream, each sample once over all ranks."""
        parts = walk_stream(
            self._sources[stream],
            batch=self._config.evaluation.batch,
            rank=collectives.rank(),
            world_size=collectives.world_size(),
            device=self._device,
            dtype=DTYPES[self._config.training.precision],
        )
        for part in parts:
            self._clock.beat()
            yield part
