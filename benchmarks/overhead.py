"""What the training loop costs beside a hand-written one, and what two processes spend waiting.

    python benchmarks/overhead.py [--quick] [--json FILE] [--networks tiny resnet18]
                                  [--methods source-only astn] [--batch 32] [--size 64]
                                  [--repeats 9] [--stretch 10] [--no-clip]

On the built-in smoke benchmark, decoded samples in memory, one thread a process, float32, the same
start, batches and optimiser:

  by hand   batches, augmentation, method, backward, clipping, optimiser step; no log, no checks
  loop      trainer.loop.train in the same process
  process   trainer.loop.train in another plain process: what taking turns across processes costs
  Ray       trainer.loop.train in a Ray Train worker
  two       trainer.loop.train in two gloo processes, the same global batch

The hand-written loop and ours take turns at every step, across the two processes where there are
two, so that whatever else the machine does hits both. The ratio is the median over stretches of
steps of (time by hand / time of the loop); at the end both must hold the same weights, bit for bit.
Checkpoints are left out: a steady state has none. Gradients are clipped as in the ready
configurations; with --no-clip they are not, and the loop, which checks the gradient's norm at every
step, reads them once more than the other.

For two processes the share of trainer.synchronised.collectives in the time after start-up is
shown; it holds the
wait for the slower process, and is large on a CPU, where each call of gloo costs a good part of a
millisecond. The averaging of gradients is in the backward pass.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from cluster.data_jobs import make_benchmark
from cluster.training import ray_session
from trainer.building import DTYPES, build_method
from trainer.config import RunConfig, parse_config
from trainer.engines.optimizers import build_optimizer
from trainer.inputs.open_data import OpenData
from trainer.inputs.streams import to_domains, training_loader
from trainer.loop import train
from trainer.methods import Method, Now
from trainer.runs.checkpoint import newest_checkpoint
from trainer.runs.run_folder import RunFolder
from trainer.schedules import rate_factor
from trainer.synchronised.collectives import process_group
from trainer.watching.phase_clock import shares

RATIO_GOAL, COLLECTIVES_GOAL = 0.97, 0.03
WARM_STEPS = 5


def configuration(options: argparse.Namespace, method: str, network: str, steps: int) -> RunConfig:
    """A run without checkpoints on the way."""
    return parse_config(
        {
            "method": {"name": method},
            "data": {"root": str(options.data), "train_views": 2},
            "network": {"backbone": network, "image_size": options.size},
            "optimizer": {"learning_rate": 0.001, "clip_norm": options.clip_norm},
            "training": {
                "steps": steps,
                "batch": options.batch,
                "precision": "float32",
                "checkpoint_every": 10**6,
                "cache": "ram",
                "threads": 1,
            },
        }
    )


class ByHand:
    """The loop that one would write for one experiment; each ``next`` is one step."""

    def __init__(self, config: RunConfig) -> None:
        self.config, self.data = config, OpenData(config)
        self.method: Method = build_method(config, num_classes=len(self.data.classes))
        self.optimizer = build_optimizer(self.method, config.optimizer)

    def steps(self) -> Generator[None, None, None]:
        config, optimizer = self.config, self.optimizer
        dtype = DTYPES[config.training.precision]
        rates = [group["lr"] for group in optimizer.param_groups]
        self.method.train()
        with training_loader(self.data) as loader:
            for step, batch in loader:
                now = Now(step, step / config.training.steps, logged=False)
                domains = to_domains(batch, self.data.sources, device="cpu", dtype=dtype)
                losses = self.method(domains, now)
                losses.total.backward()
                factor = rate_factor(config.optimizer.schedule, step, config.training.steps)
                if config.optimizer.clip_norm is not None:
                    clip_grad_norm_(self.method.parameters(), config.optimizer.clip_norm)
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * factor
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                yield


def claimed(config: RunConfig, path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    return folder


class Turns:
    """Seconds of the steps of two loops that work in turn."""

    def __init__(self, config: RunConfig) -> None:
        self.by_hand = ByHand(config)
        self._steps = self.by_hand.steps()
        self.seconds: list[float] = []

    def take(self) -> None:
        """One step by hand."""
        start = time.perf_counter()
        next(self._steps)
        self.seconds.append(time.perf_counter() - start)

    def close(self) -> None:
        self._steps.close()


def loop_with_turns(
    config: RunConfig, folder: RunFolder, take: Callable[[], object]
) -> list[float]:
    """Train; before every step, where the loop asks whether to stop, ``take`` is called. Seconds of
    the loop's own steps, all but the last."""
    seconds: list[float] = []
    last_end: float | None = None

    def turn() -> bool:
        nonlocal last_end
        if last_end is not None:
            seconds.append(time.perf_counter() - last_end)
        take()
        last_end = time.perf_counter()
        return False

    train(config, folder, stop=turn)
    return seconds


def in_one_process(config: RunConfig, out: Path) -> tuple[list[float], list[float]]:
    """Seconds of each step by hand, and of the loop beside it."""
    turns, folder = Turns(config), claimed(config, out)
    loop_seconds = loop_with_turns(config, folder, turns.take)
    turns.close()
    require_same_weights(turns.by_hand.method, folder)
    return turns.seconds, loop_seconds


def in_another_process(
    config: RunConfig, out: Path, start: Callable[[RunConfig, Path, str], object]
) -> tuple[list[float], list[float]]:
    """Seconds of each step by hand in this process, and of the loop in the one that ``start``
    starts, which calls ``take_turns``."""
    turns, folder = Turns(config), claimed(config, out)
    address = str(out.with_suffix(".socket"))
    with Listener(address, "AF_UNIX") as listener:
        running = threading.Thread(target=start, args=(config, out, address), daemon=True)
        running.start()
        with listener.accept() as worker:
            while (message := worker.recv()) is None:
                turns.take()
                worker.send(None)
        running.join()
    turns.close()
    require_same_weights(turns.by_hand.method, folder)
    return turns.seconds, message


def take_turns(config: RunConfig, out: Path, address: str) -> None:
    """Train in this process; before every step the process at ``address`` takes one."""
    torch.set_num_threads(1)
    with Client(address, "AF_UNIX") as driver:

        def take() -> None:
            driver.send(None)
            driver.recv()

        driver.send(loop_with_turns(config, RunFolder(out), take))


def start_process(config: RunConfig, out: Path, address: str) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=take_turns, args=(config, out, address)
    )
    process.start()
    process.join()


def on_ray(config: RunConfig, out: Path) -> tuple[list[float], list[float]]:
    with ray_session():
        return in_another_process(config, out, start_on_ray)


def start_on_ray(config: RunConfig, out: Path, address: str) -> None:
    from ray.train import RunConfig as RayRunConfig
    from ray.train import ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    TorchTrainer(
        lambda: take_turns(config, out, address),
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RayRunConfig(name=out.name, storage_path=str(out / "ray")),
    ).fit()


def compared(
    options: argparse.Namespace, hand_seconds: list[float], loop_seconds: list[float]
) -> dict[str, Any]:
    """Medians over stretches of steps, and of the ratios between them."""
    stretches = [
        slice(WARM_STEPS + i * options.stretch, WARM_STEPS + (i + 1) * options.stretch)
        for i in range(options.repeats)
    ]
    hand, loop = (
        [sum(seconds[s]) / options.stretch for s in stretches]
        for seconds in (hand_seconds, loop_seconds)
    )
    ratios = [h / o for h, o in zip(hand, loop, strict=True)]
    return {
        "by_hand_seconds": statistics.median(hand),
        "loop_seconds": statistics.median(loop),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }


def require_same_weights(method: Method, folder: RunFolder) -> None:
    """Both loops did the same work, or the comparison is void."""
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    for name, value in method.state_dict().items():
        if not torch.equal(value, found.state["method"][name]):
            raise SystemExit(f"overhead: the two loops end with different weights in {name}")


def in_two_processes(config: RunConfig, out: Path) -> dict[str, Any]:
    """Time budget of rank 0 of two processes; the median over runs is the caller's."""
    claimed(config, out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=one_of_two, args=(r, port, config, out)) for r in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("overhead: a process of two failed, see above")
    facts = RunFolder(out).read()
    return {
        "two_seconds": facts["step_timings"]["mean_seconds"],
        "shares": shares(facts["timings"]),
    }


def one_of_two(rank: int, port: int, config: RunConfig, out: Path) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    with process_group(timeout_seconds=config.training.timeout_seconds, backend="gloo"):
        train(config, RunFolder(out))


def measured(
    options: argparse.Namespace, method: str, network: str, folder: Path
) -> dict[str, Any]:
    steps = WARM_STEPS + options.repeats * options.stretch + 1
    config = configuration(options, method, network, steps)
    out = folder / f"{method}-{network}"
    result: dict[str, Any] = {
        "loop": compared(options, *in_one_process(config, out / "one")),
        "process": compared(options, *in_another_process(config, out / "process", start_process)),
        "Ray": compared(options, *on_ray(config, out / "ray")),
    }
    runs = [in_two_processes(config, out / f"two-{i}") for i in range(options.runs)]
    result["two_seconds"] = statistics.median(run["two_seconds"] for run in runs)
    result["collectives_share"] = statistics.median(run["shares"]["collectives"] for run in runs)
    return result


def show(name: str, result: dict[str, Any]) -> None:
    for where in ("loop", "process", "Ray"):
        found = result[where]
        low, high = found["ratio_range"]
        print(
            f"{name}: by hand {1000 * found['by_hand_seconds']:.1f} ms, "
            f"{where} {1000 * found['loop_seconds']:.1f} ms, ratio {found['ratio']:.3f} "
            f"({low:.3f} to {high:.3f}; goal ≥ {RATIO_GOAL:g}: "
            f"{met(found['ratio'] >= RATIO_GOAL)})",
            flush=True,
        )
    share = result["collectives_share"]
    print(
        f"{name}: two processes {1000 * result['two_seconds']:.1f} ms, collectives {share:.1%} "
        f"(goal ≤ {COLLECTIVES_GOAL:.0%}: {met(share <= COLLECTIVES_GOAL)})",
        flush=True,
    )


def met(yes: bool) -> str:
    return "met" if yes else "NOT met"


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=["tiny", "resnet18"])
    parser.add_argument("--methods", nargs="+", default=["source-only", "astn"])
    parser.add_argument("--batch", type=int, default=32, help="global batch of each stream")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures in pixels")
    parser.add_argument("--repeats", type=int, default=9, help="stretches")
    parser.add_argument("--stretch", type=int, default=10, help="steps of a stretch; 10 a log line")
    parser.add_argument("--runs", type=int, default=3, help="runs in two processes")
    parser.add_argument("--data", type=Path, help="a packed smoke benchmark; made if not given")
    parser.add_argument("--no-clip", dest="clip_norm", action="store_const", const=None, default=5)
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    if options.quick:
        options.methods, options.batch, options.repeats, options.runs = ["astn"], 8, 3, 1
    return options


def main() -> None:
    options = parsed()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options.data = (options.data or folder / "data").absolute()
        make_benchmark(options.data, size="smoke", seed=0)
        print(f"batch {options.batch} a stream, {options.size}×{options.size} pixels, 2 views")
        for method in options.methods:
            for network in options.networks:
                found = measured(options, method, network, folder)
                results[f"{method}, {network}"] = found
                show(f"{method}, {network}", found)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
