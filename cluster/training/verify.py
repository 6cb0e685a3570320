"""Proof that training depends on neither the number of processes nor the strategy: measured."""

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

DEFAULT_DATA = Path("data") / "procedural-smoke"
MOST_PROCESSES = 64


def parse_world_sizes(text: str) -> list[int]:
    """Numbers of processes from ``1,2,3``, ascending; 1 is the reference and left out.

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
            f"--world-sizes '{text}': one process is what others are held against; name one above 1"
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


def verify(
    methods: Sequence[str],
    *,
    world_sizes: Sequence[int],
    strategies: Sequence[str] = ("ddp",),
    precision: str | None = None,
    data: Path | None = None,
) -> dict[str, Any]:
    """Hold gradients, losses and state of W processes against those of one with plain training.

    Args:
        methods: names, or ``all``.
        world_sizes: the numbers of processes W, each above 1; one process of DeepSpeed is always
            held against the plain one too.
        strategies: of :data:`trainer.verify.STRATEGIES`.
        precision: ``float64`` or ``float32``; None is the finest that a strategy supports.
        data: a packed data set with training images and shapes; None makes the built-in one.

    Returns:
        ``ok``, ``data`` and ``strategies``, by name: ``methods``: largest relative differences, by
        method and number of processes; ``ok``; ``failures``: those above ``tolerance`` with the
        tensor that differs most; ``errors``: what went wrong, by method; ``refused``: why a method
        cannot be trained so, by method; ``dtype``.

    Raises:
        ConfigError, DataError: unknown method or precision, or data that cannot be used.
        RuntimeError: the processes do not come together.
    """
    names = list(METHODS) if "all" in methods else [find_method(name).name for name in methods]
    if precision not in (None, *TOLERANCES):
        raise ConfigError(f"--dtype '{precision}': expected {' or '.join(TOLERANCES)}")
    root = (data or _built_in_data()).absolute()
    opened: dict[str, Manifest] = {}
    for name in names:
        for config in probe_configs(name, root=root, precision="float32"):
            OpenData(config, opened=opened).require_trainable()
    found = {}
    for strategy in strategies:
        finest = "float64" if strategy == "ddp" else "float32"
        outcome = _Outcome(strategy, names, data=root, precision=precision or finest)
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
    """One line that names every method that failed in a :func:`verify`; empty if none did."""
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


def _built_in_data() -> Path:
    from cluster.training.jobs import (
        make_benchmark,  # the processes import this file and need no reports
    )

    make_benchmark(DEFAULT_DATA, size="smoke", seed=0)
    return DEFAULT_DATA


class _Outcome:
    """What has been found so far about one strategy."""

    def __init__(self, strategy: str, names: Sequence[str], *, data: Path, precision: str) -> None:
        self.strategy, self.data, self.precision = strategy, data, precision
        self.tolerance = TOLERANCES[precision]
        self.methods: dict[str, dict[str, Any]] = {name: {"world_sizes": {}} for name in names}
        self.failures: list[dict[str, Any]] = []
        self.errors: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        for name in names:
            options = {"root": data, "precision": precision, "strategy": strategy}
            reasons = [r for config in probe_configs(name, **options) for r in refusals(config)]
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
        """Forget what is known of the methods that differ, and name them."""
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
    """Add what differs between the reference and W processes, for every method and W."""
    title = f"verifying {outcome.strategy}" + (f" at seed {seed}" if seed else "")
    with (
        tempfile.TemporaryDirectory(prefix="img2shape-verify-") as folder,
        task(title, len(names) * (1 + len(world_sizes))) as bar,
    ):
        reference, done = Job(outcome.data, outcome.precision, seed, Path(folder)), count(1)
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
    """Take methods from ``waiting`` and name each with what was found when it is done; after a
    failure some processes may wait for the failed one for ever, so that is the end."""
    while waiting:
        name = waiting.pop(0)
        try:
            parts = processes.probe(name)
        except ProbeError as err:
            outcome.fail(name, world_size, str(err))
            return
        yield name, parts
