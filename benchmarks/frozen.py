"""What training on the kept outputs of a frozen trunk saves.

    python benchmarks/frozen.py [--quick] [--json FILE] [--backbone timm/tf_efficientnet_lite0]
                                [--weights package:efficientnet-lite0] [--size 128] [--batch 32]
                                [--views 12] [--methods source-only astn]

On the built-in smoke benchmark, decoded samples in memory, float32, all cores. Three ways to train
what stands on a pre-trained trunk:

  all       the trunk learns too
  through   the trunk is frozen, and every step passes the pictures through it
  kept      the trunk is frozen, and steps read its kept outputs (network.train=head)

The ways take turns, stretch after stretch of steps, so that whatever else the machine does hits
each. The ratios are those of the medians of a step's time; "through" and "kept" must end with the
same weights up to rounding. The time that the outputs took is shown beside the number of steps
after which it has paid.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch

from cluster.data_jobs import make_benchmark
from trainer.building import DTYPES, build_method
from trainer.config import RunConfig, parse_config
from trainer.engines.optimizers import build_optimizer
from trainer.inputs import FeatureStore, OpenData, to_domains, training_loader
from trainer.methods import Now

WAYS = ("all", "through", "kept")
GOAL = 50.0
_KEPT_STEPS = 20  # of a stretch; the other ways take one


def configuration(options: argparse.Namespace, method: str, way: str, store: Path) -> RunConfig:
    return parse_config(
        {
            "method": {"name": method},
            "data": {"root": str(options.data), "train_views": options.views, "augment": None},
            "network": {
                "backbone": options.backbone,
                "weights": options.weights,
                "image_size": options.size,
                "train": "all" if way == "all" else "head",
            },
            "optimizer": {"learning_rate": 0.001},
            "training": {
                "steps": 10**6,
                "batch": options.batch,
                "precision": "float32",
                "cache": "ram",
                "feature_store": str(store),
            },
        }
    )


class Way:
    """One way to train, step by step."""

    def __init__(self, config: RunConfig, way: str) -> None:
        self.config, self.data = config, OpenData(config)
        self.method = build_method(config, num_classes=len(self.data.classes))
        self.optimizer = build_optimizer(self.method, config.optimizer)
        self.seconds: list[float] = []
        self.store_seconds = 0.0
        self.dtype = DTYPES[config.training.precision]
        if way == "kept":
            start = time.perf_counter()
            self.data.read_features(FeatureStore(config, self.method, dtype=self.dtype))
            for source in self.data.sources.values():
                assert source.features is not None
                source.features(True)
            self.store_seconds = time.perf_counter() - start
        self._steps = self._endless()

    def _endless(self) -> Generator[None, None, None]:
        self.method.train()
        with training_loader(self.data) as loader:
            for step, batch in loader:
                domains = to_domains(batch, self.data.sources, device="cpu", dtype=self.dtype)
                self.method(domains, Now(step, 0.5, logged=False)).total.backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                yield

    def take(self) -> None:
        """One step."""
        next(self._steps)

    def stretch(self, steps: int) -> None:
        """Some steps, each measured, after one that brings the processor's caches back."""
        self.take()
        for _ in range(steps):
            start = time.perf_counter()
            self.take()
            self.seconds.append(time.perf_counter() - start)

    def close(self) -> None:
        self._steps.close()

    @property
    def learned(self) -> dict[str, torch.Tensor]:
        return {n: p.detach() for n, p in self.method.named_parameters() if p.requires_grad}


def measured(options: argparse.Namespace, method: str) -> dict[str, Any]:
    """Seconds of a step by way, and the ratios to the kept outputs."""
    with tempfile.TemporaryDirectory() as folder:
        ways = {w: Way(configuration(options, method, w, Path(folder)), w) for w in WAYS}
        for way in ways.values():
            for _ in range(2):
                way.take()
        for name, value in ways["kept"].learned.items():
            torch.testing.assert_close(value, ways["through"].learned[name], rtol=1e-3, atol=1e-4)
        for _ in range(options.stretches):
            for name, way in ways.items():
                way.stretch(_KEPT_STEPS if name == "kept" else 1)
        medians = {name: statistics.median(way.seconds) for name, way in ways.items()}
        kept, stored = medians["kept"], ways["kept"].store_seconds
        for way in ways.values():
            way.close()
    return {
        "seconds": medians,
        "ratios": {name: medians[name] / kept for name in ("all", "through")},
        "store_seconds": stored,
        "pays_after_steps": stored / (medians["through"] - kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a small run, to see that it works")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--backbone", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--weights", default="package:efficientnet-lite0")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--stretches", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=["source-only", "astn"])
    options = parser.parse_args()
    if options.quick:
        options.size, options.batch, options.views, options.stretches = 32, 4, 2, 1
    options.data = Path("data/procedural-smoke")
    make_benchmark(options.data, size="smoke", seed=0)
    found = {method: measured(options, method) for method in options.methods}
    for method, result in found.items():
        ms = {name: f"{1000 * value:.0f} ms" for name, value in result["seconds"].items()}
        ratios = ", ".join(f"{name} {ratio:.0f}x" for name, ratio in result["ratios"].items())
        print(f"{method}: a step {ms}; times the kept one: {ratios}")
        print(
            f"  outputs of the smoke set in {result['store_seconds']:.0f} s, paid after "
            f"{result['pays_after_steps']:.0f} steps"
        )
        met = result["ratios"]["through"] >= GOAL
        print(f"  goal: through / kept at least {GOAL:.0f}: {'met' if met else 'NOT met'}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
