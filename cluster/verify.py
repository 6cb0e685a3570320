"""Proof that training does not depend on the number of processes: every method, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from cluster.progress import task
from cluster.verify_processes import Differences, Job, ProbeError, ProbeProcesses, probe_processes
from trainer.config import ConfigError
from trainer.methods import METHODS
from trainer.methods.catalogue import find_method
from trainer.streams import training_sources
from trainer.verify import ATTEMPTS, QUANTITIES, TOLERANCES, probe_configs

__all__ = ["DEFAULT_DATA", "parse_world_sizes", "shortfalls", "verify"]

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


def verify(
    methods: Sequence[str],
    *,
    world_sizes: Sequence[int],
    precision: str = "float64",
    data: Path | None = None,
) -> dict[str, Any]:
    """Hold gradients, losses and state of W processes against those of one process.

    Args:
        methods: names, or ``all``.
        world_sizes: the numbers of processes W, each above 1.
        precision: ``float64`` or ``float32``.
        data: a packed data set with training images and shapes; None makes the built-in one.

    Returns:
        ``methods``: largest relative differences, by method and number of processes; ``ok``;
        ``failures``: those above ``tolerance`` with the tensor that differs most; ``errors``: what
        went wrong, by method.

    Raises:
        ConfigError, DataError: unknown method or precision, or data that cannot be used.
        RuntimeError: the processes do not come together.
    """
    names = list(METHODS) if "all" in methods else [find_method(name).name for name in methods]
    if precision not in TOLERANCES:
        raise ConfigError(f"--dtype '{precision}': expected {' or '.join(TOLERANCES)}")
    root = (data or _built_in_data()).absolute()
    for name in names:
        for config in probe_configs(name, root=root, precision=precision):
            training_sources(config)
    outcome = _Outcome(TOLERANCES[precision], names)
    for seed in range(ATTEMPTS[precision]):
        names = outcome.start_again() if seed else names
        if names:
            _measure(names, world_sizes, outcome, data=root, precision=precision, seed=seed)
    return {**outcome.to_dict(), "dtype": precision, "data": str(root)}


def shortfalls(result: dict[str, Any]) -> str:
    """One line that names every method that failed in a :func:`verify`; empty if none did."""
    found: dict[str, list[str]] = {}
    for failure in result["failures"]:
        value = f"{failure['quantity']} {failure['difference']:.1e}"
        found.setdefault(failure["method"], []).append(f"W={failure['world_size']} {value}")
    for method, error in result["errors"].items():
        found.setdefault(method, []).append(error)
    listed = [f"{method} ({', '.join(parts)})" for method, parts in found.items()]
    if not listed:
        return ""
    return f"{len(found)} of {len(result['methods'])} methods failed: {'; '.join(listed)}"


def _built_in_data() -> Path:
    from cluster.jobs import make_benchmark  # the processes import this file and need no reports

    make_benchmark(DEFAULT_DATA, size="smoke", seed=0)
    return DEFAULT_DATA


class _Outcome:
    """What has been found so far."""

    def __init__(self, tolerance: float, names: Sequence[str]) -> None:
        self.tolerance = tolerance
        self.methods: dict[str, dict[str, Any]] = {name: {"world_sizes": {}} for name in names}
        self.failures: list[dict[str, Any]] = []
        self.errors: dict[str, str] = {}

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
            "ok": not self.failures and not self.errors,
            "tolerance": self.tolerance,
            "failures": self.failures,
            "errors": self.errors,
        }


def _measure(
    names: Sequence[str],
    world_sizes: Sequence[int],
    outcome: _Outcome,
    *,
    data: Path,
    precision: str,
    seed: int,
) -> None:
    """Add what differs between one process and W, for every method and W."""
    title = f"verifying at seed {seed}" if seed else "verifying"
    with (
        tempfile.TemporaryDirectory(prefix="img2shape-verify-") as folder,
        task(title, len(names) * (1 + len(world_sizes))) as bar,
    ):
        job, done = Job(data, precision, seed, Path(folder)), count(1)
        for world_size in (1, *world_sizes):
            waiting = [name for name in names if name not in outcome.errors]
            while waiting:
                with probe_processes(world_size, job) as processes:
                    for name in _until_failure(processes, world_size, waiting, outcome):
                        bar.at(next(done), note=f"{name}, W={world_size}")


def _until_failure(
    processes: ProbeProcesses, world_size: int, waiting: list[str], outcome: _Outcome
) -> Iterator[str]:
    """Take methods from ``waiting`` and name each when it is done; after a failure some processes
    may wait for the failed one for ever, so that is the end."""
    while waiting:
        name = waiting.pop(0)
        try:
            parts = processes.probe(name)
        except ProbeError as err:
            outcome.fail(name, world_size, str(err))
            return
        if world_size > 1:
            outcome.add(name, world_size, parts)
        yield name
