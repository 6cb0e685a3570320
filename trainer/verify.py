"""Measures whether a method trains the same on any number of processes, under any strategy.

A probe runs the real training loop for a few steps on a few samples and keeps what must not depend
on how the batch is split: every update's gradients, every loss term, and the method's final state
with all its statistics. :func:`compare` compares one rank's probe with that of one process.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from dataio.loading import StreamSource
from trainer.config import RunConfig, overridden, parse_config
from trainer.engines import Strategy, open_strategy
from trainer.inputs import OpenData
from trainer.loop import Trainer
from trainer.methods import METHODS, Losses, Method
from trainer.runs import RunFolder
from trainer.sections import OptimizerConfig, Selection

QUANTITIES = ("grad", "loss", "state")
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}
"""Largest relative difference that rounding explains, by precision."""

ATTEMPTS = {"float64": 1, "float32": 3}
"""How many seeds must all show a difference. In float32 an activation near a kink of ReLU or max
pooling now and then rounds to its other side, and the gradient jumps. A fault of the method shows
at every seed."""

STRATEGIES = {
    "ddp": {"name": "ddp"},
    **{f"deepspeed-{n}": {"name": "deepspeed", "zero_stage": n} for n in range(4)},
}
"""Section ``strategy`` of a probe, by what the command calls it; the first is the reference."""

Probe = dict[str, dict[str, Tensor]]
"""By quantity, tensors by name; the names are the same on every rank."""

STEPS = 3
SAMPLES = 48  # of each stream: rounds and last fits walk over all of them
WIDEST = 32  # of the heads' hidden layers, whose width costs time and proves nothing
# The first splits unevenly, the second leaves one of three ranks without a row.
BATCHES = (7, 2)
# Classes x samples: one is uneven for two processes, the other for three.
BALANCED = ((3, 3), (5, 2))


def probe_configs(
    method: str,
    *,
    root: Path,
    precision: str,
    seed: int = 0,
    strategy: str = "ddp",
    overrides: Sequence[str] = (),
) -> list[RunConfig]:
    """The runs of a probe: the method's own options on a tiny network, by batch.

    Args:
        root: a packed data set with training images and training shapes.
        precision: ``float64`` or ``float32``.
        strategy: one of :data:`STRATEGIES`.
        overrides: ``key=value`` of a run description.

    Raises:
        ConfigError: the method refuses these settings.
    """
    cls = METHODS[method]
    batches: list[tuple[dict[str, Any], dict[str, Any]]] = [({}, {"batch": b}) for b in BATCHES]
    if cls.balanced:
        batches = [({"classes_per_batch": p, "samples_per_class": k}, {}) for p, k in BALANCED]
    steps = {"steps": STEPS} if cls.trains else {}
    found = []
    for options, training in batches:
        tree = {
            "method": {"name": method, **_narrow(cls), **options},
            "data": {"root": str(root), "train_views": 2},
            "network": {"tiny_width": 8, "embedding": 16, "image_size": 32},
            # Not Adam, which divides by the gradient's size: rounding noise in a gradient of zero
            # would become a whole step.
            "optimizer": {"kind": "sgd", "learning_rate": 0.01, "clip_norm": 1.0},
            "training": {**steps, "seed": seed, "precision": precision, **training},
            "evaluation": {"batch": 16},
            "strategy": STRATEGIES[strategy],
        }
        found.append(parse_config(overridden(tree, overrides), where=f"verify {method}"))
    return found


def _keeping_features(config: RunConfig, folder: Path) -> RunConfig:
    """The run with the features of its frozen stages in ``folder``: those of a probe's random trunk
    serve no other run."""
    training = config.training.model_copy(update={"feature_store": str(folder)})
    return config.model_copy(update={"training": training})


def _narrow(method: type[Method]) -> dict[str, Any]:
    """The method's hidden layers, as many as by default but narrow."""
    return {
        name: tuple(min(width, WIDEST) for width in value)
        for name, value in method.Config()
        if name.endswith("_hidden") and isinstance(value, tuple)
    }


def probe(
    method: str,
    *,
    root: Path,
    precision: str,
    seed: int = 0,
    strategy: str = "ddp",
    scratch: Path | None = None,
    overrides: Sequence[str] = (),
) -> Probe:
    """Train ``method`` a few steps on this rank; every rank of the process group calls it.

    Losses and gradients are those of each update of each step, the state is the one after the last
    fit. Runs on the CPU; its run folders, inside ``scratch`` or the system's own, are removed.

    Raises:
        ConfigError, DataError: the data do not fit the method.
        NonFiniteError: it diverged.
    """
    result: Probe = {quantity: {} for quantity in QUANTITIES}
    configs = probe_configs(
        method, root=root, precision=precision, seed=seed, strategy=strategy, overrides=overrides
    )
    for config in configs:
        recorder = Recorder(open_strategy(config.strategy))
        with tempfile.TemporaryDirectory(prefix="img2shape-", dir=scratch) as folder:
            config = _keeping_features(config, Path(folder) / "features")
            trainer = Trainer(
                config,
                RunFolder(Path(folder)),
                device=torch.device("cpu"),
                strategy=cast(Strategy, recorder),
                data=_FewSamples(config),
            )
            trainer.run()
        found = {
            "grad": recorder.gradients,
            "loss": recorder.losses,
            "state": {n: v.clone() for n, v in recorder.weights().items()},
        }
        for quantity, tensors in found.items():
            batch = f"batch {config.training.batch}"
            result[quantity] |= {f"{batch}: {name}": value for name, value in tensors.items()}
    return result


class _FewSamples(OpenData):
    """Some rows of each stream of training, evenly spaced: a data set lists class after class."""

    def _source(self, selection: Selection, *, labelled: bool, training: bool) -> StreamSource:
        source = super()._source(selection, labelled=labelled, training=training)
        count = min(SAMPLES, len(source.rows)) if training else len(source.rows)
        places = np.linspace(0, len(source.rows) - 1, count).astype(np.int64)
        return replace(source, rows=source.rows[places])


class Recorder:
    """A strategy that also keeps the losses and the averaged gradients of every update."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.losses: dict[str, Tensor] = {}
        self.gradients: dict[str, Tensor] = {}
        self._update = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.strategy, name)

    def prepare(self, method: Method, config: OptimizerConfig) -> nn.Module:
        model = self.strategy.prepare(method, config)
        model.register_forward_hook(self._keep_losses)
        return model

    def _keep_losses(self, _model: nn.Module, inputs: tuple[Any, ...], losses: Losses) -> None:
        _, now, update = inputs
        self._update = f"step {now.step}, update {update}"
        for name, value in {**losses.terms, "total": losses.total}.items():
            self.losses[f"{self._update}, {name}"] = value.detach().clone()

    def step(self, *, factor: float) -> Tensor | None:
        for name, gradient in self.strategy.gradients().items():
            self.gradients[f"{self._update}, {name}"] = gradient.detach().clone()
        return self.strategy.step(factor=factor)


@dataclass(frozen=True)
class Difference:
    """Largest relative difference of one quantity, and the tensor that has it."""

    value: float
    tensor: str


def compare(reference: Probe, other: Probe) -> dict[str, Difference]:
    """By quantity, max |a - b| / max |a| over all tensors a of ``reference`` and b of ``other``.

    Integers (labels, counts) are compared with integers, real numbers with real numbers. Entries
    that are not finite must be so on both sides.

    Raises:
        ValueError: the two differ in names or shapes of tensors, or in which entries are finite.
    """
    result = {}
    for quantity in QUANTITIES:
        a, b = reference[quantity], other[quantity]
        _require_alike(a, b, quantity=quantity)
        kinds = [
            {n for n, v in a.items() if v.is_floating_point() is real} for real in (True, False)
        ]
        found = [_difference({n: (a[n], b[n]) for n in names}) for names in kinds]
        result[quantity] = max(found, key=lambda d: d.value)
    return result


def _require_alike(a: Mapping[str, Tensor], b: Mapping[str, Tensor], *, quantity: str) -> None:
    shapes = [{name: tuple(v.shape) for name, v in part.items()} for part in (a, b)]
    for name in sorted(shapes[0] | shapes[1]):
        one, many = (part.get(name, "absent") for part in shapes)
        if one != many:
            raise ValueError(f"{quantity}: {name} is {many}, in one process {one}")
        if not torch.equal(a[name].isfinite(), b[name].isfinite()):
            raise ValueError(f"{quantity}: {name} is finite in one process only, or in many only")


def _difference(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Difference:
    largest, worst = 0.0, Difference(0.0, "")
    for name, (a, b) in pairs.items():
        finite = a.isfinite()
        a, b = a[finite].double(), b[finite].double()
        if len(a):
            largest = max(largest, float(a.abs().max()))
            found = Difference(float((a - b).abs().max()), name)
            worst = max(worst, found, key=lambda d: d.value)
    return replace(worst, value=worst.value / (largest or 1.0))
