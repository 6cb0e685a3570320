"""Pass the numbers of a run on to TensorBoard, MLflow or Weights & Biases.

A sink gets the lines of the run's own files, ``log.jsonl`` and ``validation.jsonl``, which stay the
record of the run. Training needs none of the three packages. A sink that fails is reported and left
out, and training goes on.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from cluster.terminal import say
from dataio.names import nearest
from evalsuite.run_records import NewRecords
from trainer.config import ConfigError, RunConfig
from trainer.runs import RunFolder, read_starts

# Class of each sink, the module that it needs, and the package to install.
SINKS = {
    "tensorboard": ("cluster.sinks.tensorboard_sink:TensorBoard", "tensorboardX", "tensorboardX"),
    "mlflow": ("cluster.sinks.mlflow_sink:MLflow", "mlflow", "mlflow"),
    "wandb": ("cluster.sinks.wandb_sink:WeightsAndBiases", "wandb", "wandb"),
}


class Sink(Protocol):
    """Where the numbers of one run go."""

    def start(self, *, name: str, config: Mapping[str, Any], resume_step: int) -> None:
        """Begin, or go on with, the run ``name``.

        Args:
            resume_step: the first step that is trained now. A killed process may have logged
                this step and later ones before; they must not be drawn twice.
        """
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the finite numbers of a step. Steps never go back. Steps before ``resume_step``
        come as well; the sink leaves out those that it has."""
        ...

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End with a ``status``, which is finished, interrupted or failed, and the last scores."""
        ...


def open_sinks(names: Sequence[str], folder: Path) -> Sinks:
    """The sinks of these names for the run in ``folder``; nothing is written yet.

    Raises:
        ConfigError: a name is unknown, or the package is not installed.
    """
    opened: dict[str, Sink] = {}
    for name in dict.fromkeys(names):
        if name not in SINKS:
            raise ConfigError(f"--sink {name}: unknown{nearest(name, SINKS)}")
        place, module, package = SINKS[name]
        try:
            importlib.import_module(module)
        except ImportError:
            raise ConfigError(f"--sink {name}: needs `pip install {package}`") from None
        home, _, kind = place.partition(":")
        opened[name] = getattr(importlib.import_module(home), kind)(folder)
    return Sinks(opened, RunFolder(folder))


class Sinks:
    """Gives sinks the lines of a run folder, each once, in the order of the steps.

    An error of a sink never leaves this class.
    """

    def __init__(self, sinks: Mapping[str, Sink], folder: RunFolder) -> None:
        self._sinks, self._folder = dict(sinks), folder
        self._starts = len(read_starts(folder.path))  # by earlier commands
        self._config: Mapping[str, Any] | None = None
        self._log, self._validation = NewRecords(folder.log), NewRecords(folder.validation)
        self._waiting: list[tuple[int, dict[str, float]]] = []  # scores of steps not yet logged
        self._scores: dict[str, float] = {}  # the last ones

    def start(self, config: Mapping[str, Any]) -> None:
        """Take the run's configuration; the sinks start once the run trains."""
        self._config = config

    def look(self, *, last: bool = False) -> None:
        """Pass on what the run wrote since the last look; everything if this is the ``last``."""
        if not self._sinks or not self._begun():
            return
        for step, values in self._news(last=last):
            self._each("log", step, values)

    def finish(self, status: str) -> None:
        """Look for the last time and end the sinks that were started."""
        self.look(last=True)
        if self._config is None and self._sinks:
            self._each("finish", {"status": status, **self._scores})
        self._sinks = {}

    def _begun(self) -> bool:
        """Start the sinks once this command has trained a step, which tells the resume step."""
        if self._config is None:
            return True
        starts = read_starts(self._folder.path)[self._starts :]
        if not starts:  # the lines are by earlier commands, and some may be written again
            return False
        config, self._config = self._config, None
        self._each(
            "start",
            name=self._folder.path.absolute().name,
            config=config,
            resume_step=starts[0].step,
        )
        return True

    def _news(self, *, last: bool) -> list[tuple[int, dict[str, float]]]:
        """New lines by step; the scores after N steps come before the record of step N.

        Scores are written before that record and wait here for it, so that steps never go back.
        """
        records = [(r["step"], _terms(r)) for r in self._log.read()]
        self._waiting += [(r["step"], _scores(r)) for r in self._validation.read()]
        ready = [s for s in self._waiting if last or s[0] <= self._log.step]
        self._waiting = [s for s in self._waiting if s not in ready]
        self._scores = ready[-1][1] if ready else self._scores
        return sorted([*ready, *records], key=lambda found: found[0])  # stable: scores first

    def _each(self, call: str, *args: Any, **named: Any) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                getattr(sink, call)(*args, **named)
            except Exception as err:  # nothing that fails in a sink may end the training
                del self._sinks[name]
                reason = " ".join(f"{type(err).__name__}: {err}".split())
                say(f"sink {name}: left out from here on ({reason}); training goes on")


@contextmanager
def reporting(names: Sequence[str], config: RunConfig, folder: Path) -> Iterator[Sinks]:
    """Open the sinks for a training of ``config`` in ``folder``; the block's end is theirs.

    Under ``torchrun`` only rank 0 reports. Raises what :func:`open_sinks` raises.
    """
    leader = os.environ.get("RANK", "0") == "0"
    sinks = open_sinks(names if leader else (), folder)
    sinks.start(config.to_dict())
    status = "failed"
    try:
        yield sinks
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        sinks.finish(status)


def _terms(record: Mapping[str, Any]) -> dict[str, float]:
    """A line of ``log.jsonl`` as flat names: loss, terms/*, health/*, learning_rate, seconds."""
    values = {name: record.get(name) for name in ("loss", "learning_rate", "seconds")}
    for section in ("terms", "health"):
        values |= {f"{section}/{k}": v for k, v in record.get(section, {}).items()}
    return _finite(values)


def _scores(record: Mapping[str, Any]) -> dict[str, float]:
    """A line of ``validation.jsonl`` as ``validation/<name>``."""
    return _finite({f"validation/{name}": v for name, v in record["scores"].items()})


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
