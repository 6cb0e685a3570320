"""``img2shape verify``: measures that training depends on neither world size nor strategy."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from cluster.terminal import task
from cluster.training.verify_processes import (
    Differences,
    Job,
    ProbeError,
    ProbeProcesses,
    probe_processes,
)
from dataio.names import nearest
from dataio.shards import Manifest
from trainer.config import ConfigError
from trainer.engines import refusals
from trainer.inputs import OpenData
from trainer.method_reference import find_method
from trainer.methods import METHODS
from trainer.verify import ATTEMPTS, QUANTITIES, STRATEGIES, TOLERANCES, probe_configs

MOST_PROCESSES = 64


def parse_world_sizes(text: str) -> list[int]:
    """Numbers of processes from ``1,2,3``, ascending, without the reference, 1.

    Raises:
        ConfigError: not whole numbers, out of range, or none above 1.
    """
    try:
        sizes = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"--world-sizes '{text}': expected numbers like 1,2,3") from None
    if sizes[0] < 1 or sizes[-1] > MOST_PROCESSES:
        raise ConfigError(f"--world-sizes '{text}': each must be in 1..{MOST_PROCESSES}")
    if sizes == [1]:
        raise ConfigError(
            f"--world-sizes '{text}': others are compared with one process; name one above 1"
        )
    return [size for size in sizes if size > 1]


def parse_strategies(texts: Sequence[str]) -> list[str]:
    """Strategies from words like ``ddp``, ``deepspeed-1,deepspeed-3`` and ``all``, in fixed order.

    Raises:
        ConfigError: an unknown one.
    """
    asked = [part.strip() for text in texts for part in text.split(",")]
    for name in asked:
        if name not in STRATEGIES and name != "all":
            known = [*STRATEGIES, "all"]
            raise ConfigError(
                f"--strategy '{name}': expected {', '.join(known)}{nearest(name, known)}"
            )
    return [name for name in STRATEGIES if name in asked or "all" in asked]


def parse_methods(texts: Sequence[str]) -> list[str]:
    """Names of methods, or of all for the word ``all``.

    Raises:
        ConfigError: an unknown one.
    """
    return list(METHODS) if "all" in texts else [find_method(name).name for name in texts]


def parse_precision(text: str | None) -> str | None:
    """``float64`` or ``float32``; None, the finest that a strategy supports, stays None.

    Raises:
        ConfigError: anything else.
    """
    if text not in (None, *TOLERANCES):
        raise ConfigError(f"--dtype '{text}': expected {' or '.join(TOLERANCES)}")
    return text


def verify(
    methods: Sequence[str],
    *,
    world_sizes: Sequence[int],
    strategies: Sequence[str] = ("ddp",),
    precision: str | None = None,
    data: Path,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Compare gradients, losses and state of W processes with those of one plain process.

    Args:
        methods: names of :func:`parse_methods`.
        world_sizes: the numbers of processes W, each above 1. One process of DeepSpeed is always
            compared with the plain one too.
        strategies: of :data:`trainer.verify.STRATEGIES`.
        precision: ``float64`` or ``float32``; None is the finest that a strategy supports.
        data: a packed data set with training images and shapes.
        overrides: ``key=value`` of a run description, such as ``network.train=head``.

    Returns:
        ``ok``, ``data``, and ``strategies`` with an entry for each name:

        - ``methods``: the largest relative differences, by method and number of processes;
        - ``failures``: those above ``tolerance``, each with the tensor that differs most;
        - ``errors``: what went wrong, by method;
        - ``refused``: why a method cannot be trained with the strategy, by method;
        - ``ok`` and ``dtype``.

    Raises:
        DataError: data that cannot be used.
        RuntimeError: the processes do not come together.
    """
    root, names = data.absolute(), list(methods)
    opened: dict[str, Manifest] = {}
    for name in names:
        for config in probe_configs(name, root=root, precision="float32", overrides=overrides):
            OpenData(config, opened=opened).require_trainable()
    found = {}
    for strategy in strategies:
        finest = "float64" if strategy == "ddp" else "float32"
        outcome = _Outcome(
            strategy, names, data=root, precision=precision or finest, overrides=tuple(overrides)
        )
        _verify_strategy(outcome, world_sizes)
        found[strategy] = outcome.to_dict()
    return {"ok": all(f["ok"] for f in found.values()), "strategies": found, "data": str(root)}


def _verify_strategy(outcome: _Outcome, world_sizes: Sequence[int]) -> None:
    sizes = list(world_sizes) if outcome.strategy == "ddp" else [1, *world_sizes]
    names = [name for name in outcome.methods if name not in outcome.refused]
    for seed in range(ATTEMPTS[outcome.precision]):
        names = outcome.start_again() if seed else names
        if names:
            _measure(names, sizes, outcome, seed=seed)


def shortfalls(result: dict[str, Any]) -> str:
    """One line that names every method that failed in :func:`verify`; empty if none did."""
    found: dict[str, list[str]] = {}
    for strategy, part in result["strategies"].items():
        place = "" if strategy == "ddp" else f"{strategy} "
        for failure in part["failures"]:
            value = f"{failure['quantity']} {failure['difference']:.1e}"
            words = f"{place}W={failure['world_size']} {value}"
            found.setdefault(failure["method"], []).append(words)
        for method, error in part["errors"].items():
            found.setdefault(method, []).append(f"{place}{error}")
    listed = [f"{method} ({', '.join(parts)})" for method, parts in found.items()]
    if not listed:
        return ""
    tried = {method for part in result["strategies"].values() for method in part["methods"]}
    return f"{len(found)} of {len(tried)} methods failed: {'; '.join(listed)}"


class _Outcome:
    """What was found so far about one strategy."""

    def __init__(
        self,
        strategy: str,
        names: Sequence[str],
        *,
        data: Path,
        precision: str,
        overrides: tuple[str, ...],
    ) -> None:
        self.overrides = overrides
        self.strategy, self.data, self.precision = strategy, data, precision
        self.tolerance = TOLERANCES[precision]
        self.methods: dict[str, dict[str, Any]] = {name: {"world_sizes": {}} for name in names}
        self.failures: list[dict[str, Any]] = []
        self.errors: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        for name in names:
            configs = probe_configs(
                name, root=data, precision=precision, strategy=strategy, overrides=overrides
            )
            reasons = [reason for config in configs for reason in refusals(config)]
            if reasons:
                self.refused[name] = reasons[0]

    def add(self, method: str, world_size: int, parts: Sequence[Differences]) -> None:
        """Keep the largest difference of any process."""
        worst = {q: max((p[q] for p in parts), key=lambda d: d.value) for q in QUANTITIES}
        values = {quantity: difference.value for quantity, difference in worst.items()}
        self.methods[method]["world_sizes"][str(world_size)] = values
        self.failures += [
            {
                "method": method,
                "world_size": world_size,
                "quantity": quantity,
                "difference": difference.value,
                "tensor": difference.tensor,
            }
            for quantity, difference in worst.items()
            if difference.value > self.tolerance
        ]

    def start_again(self) -> list[str]:
        """Forget the results of the methods that differ, and name these methods."""
        names = list(dict.fromkeys(f["method"] for f in self.failures))
        self.methods.update({name: {"world_sizes": {}} for name in names})
        self.failures = []
        return names

    def fail(self, method: str, world_size: int, reason: str) -> None:
        self.errors[method] = f"W={world_size} {reason}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "methods": self.methods,
            "refused": self.refused,
            "dtype": self.precision,
            "ok": not self.failures and not self.errors,
            "tolerance": self.tolerance,
            "failures": self.failures,
            "errors": self.errors,
        }


def _measure(
    names: Sequence[str], world_sizes: Sequence[int], outcome: _Outcome, *, seed: int
) -> None:
    """Add the differences between the reference and W processes, for every method and W."""
    title = f"verifying {outcome.strategy}" + (f" at seed {seed}" if seed else "")
    with (
        tempfile.TemporaryDirectory(prefix="img2shape-verify-") as folder,
        task(title, len(names) * (1 + len(world_sizes))) as bar,
    ):
        done = count(1)
        reference = Job(
            outcome.data, outcome.precision, seed, Path(folder), overrides=outcome.overrides
        )
        job = replace(reference, strategy=outcome.strategy)
        for world_size, part in ((1, reference), *((size, job) for size in world_sizes)):
            waiting = [name for name in names if name not in outcome.errors]
            while waiting:
                with probe_processes(world_size, part) as processes:
                    for name, found in _until_failure(processes, world_size, waiting, outcome):
                        if part is job:
                            outcome.add(name, world_size, found)
                        bar.at(next(done), note=f"{name}, W={world_size}")


def _until_failure(
    processes: ProbeProcesses, world_size: int, waiting: list[str], outcome: _Outcome
) -> Iterator[tuple[str, list[Differences]]]:
    """Take methods from ``waiting`` and yield each with its differences, up to the first failure:
    other processes may then wait for the failed one for ever, so they are of no more use."""
    while waiting:
        name = waiting.pop(0)
        try:
            parts = processes.probe(name)
        except ProbeError as err:
            outcome.fail(name, world_size, str(err))
            return
        yield name, parts
