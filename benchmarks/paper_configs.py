"""Do the papers' configurations train? Every one of them, on synthetic trunk features.

    python benchmarks/paper_configs.py [--steps 300] [--side 2] [--only mi3dor/astn ...]
        [--markdown docs/evidence/paper-configs.md]

A run description of `configs/mi3dor`, `mi3dor-2`, `shrec13`, `shrec14-pix3d` or `shrec14-shapenet`
is trained as it stands (widths, classes, batch, views, rates, weights of the terms), but for two
things. The trunk is a layer of one factor and one offset a feature, whose inputs are drawn: fc7 of
AlexNet after ReLU, or the pooled last map of a ResNet, at the scale that such features have. And
the schedule is gone through in --steps steps, lengths of pre-training and rounds in proportion.
HIFA's inner map has --side positions a side in place of 6, which takes less time.

Printed is whether every loss and weight stayed finite, how far the classification loss fell, and
how large the gradient of each term is at the trunk's features, as a multiple of the
classification's, at the start, in the middle and at the end. A term outside [0.01, 100] from the
middle on has a sentence that says why.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from cluster.terminal import progress
from trainer.building import build_method
from trainer.config import RunConfig, load_config
from trainer.engines.data_parallel import DataParallel
from trainer.methods import METHODS, Domain
from trainer.methods.base import Losses, Now
from trainer.methods.two_branch import TwoBranchConfig
from trainer.networks.options import NetworkConfig
from trainer.networks.preprocessing import KNOWN
from trainer.networks.trunk import Backbone
from trainer.schedules import rate_factor
from trainer.shipped import find_config

FOLDERS = ("mi3dor", "mi3dor-2", "shrec13", "shrec14-pix3d", "shrec14-shapenet")
POOL = 10  # samples of a class in each domain
VIEWS = 12
LIMITS = (0.01, 100.0)

# Terms whose gradient may lie outside the limits, by method: why that is as it should be.
_UNSURE = (
    "λ_E is 0.1 as printed, and the entropy of nearly even predictions has almost no slope; "
    "the classifiers learn at 0.0001 and become sure late"
)
EXPLAINED = {
    ("hifa", "mutual_information"): "λ is 0.05 as printed, on a mean over positions and views, "
    "and what T passes on is small until it tells pairs apart",
    ("daisnet", "entropy_2d"): _UNSURE,
    ("daisnet", "entropy_3d"): _UNSURE,
}


@dataclass(frozen=True)
class Kind:
    """Features of one kind of trunk: how many, the share above 0, and the size of those."""

    width: int
    active: float
    size: float


# Assumed, not measured here: a fifth of Caffe AlexNet's fc7 active, which gives rows of norm 60 to
# 80; pooled ResNet features nearly all above 0, of mean 0.45 to 0.9.
KINDS = {
    "alexnet": Kind(4096, 0.2, 2.2),
    "resnet18": Kind(512, 0.95, 0.9),
    "resnet34": Kind(512, 0.95, 0.9),
    "resnet50": Kind(2048, 0.95, 0.45),
}


class FeatureTrunk(Backbone):
    """A trunk that is given its features ``[n, F, 1, 1]`` in place of pictures, and can move them.

    Its stages are those of the real one. Without normalisation behind them, a gate on any of them
    scales the features. The map of a stage is 256 features at every position, each by a factor.
    """

    pattern: Tensor

    def __init__(self, config: NetworkConfig, side: int) -> None:
        super().__init__()
        self.width = KINDS[config.backbone].width
        self.plan = dict.fromkeys(config.stages, ())
        self.tail = ()
        self.scale = nn.Parameter(torch.ones(self.width))
        self.offset = nn.Parameter(torch.zeros(self.width))
        self.register_buffer("pattern", torch.rand(256, side, side) + 0.5)
        self.given: list[Tensor] = []  # features of the passes of a step

    def features(
        self,
        x: Tensor,
        *,
        keep: Collection[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        x = x.flatten(1)[:, : self.width] if len(x) else x.new_zeros(0, self.width)
        x = torch.relu(x * self.scale + self.offset)
        for stage in self.plan:
            x = self._gated(x, stage, ("output",), x)
        self.given.append(x)
        return x, dict.fromkeys(keep, x[:, :256, None, None] * self.pattern)


@contextmanager
def synthetic_trunks(side: int) -> Iterator[None]:
    """For the block, networks are built on :class:`FeatureTrunk`, whatever their weights are."""
    build = lambda config: FeatureTrunk(config, side)  # noqa: E731
    with (
        patch("trainer.networks.network.build_backbone", build),
        patch("trainer.networks.metric_network.build_backbone", build),
    ):
        yield


class Features:
    """Drawn trunk features of every stream of a method: classes, a gap between the domains and the
    modalities, and noise within a class."""

    def __init__(self, config: RunConfig, classes: int, *, seed: int = 0) -> None:
        kind = KINDS[config.network.backbone]
        self._random = torch.Generator().manual_seed(seed)
        self.batch, self.classes = config.training.batch, classes
        method, options = METHODS[config.method_name], config.method
        self.balanced: tuple[int, int] | None = None
        if isinstance(options, TwoBranchConfig):
            self.balanced = options.classes_per_batch, options.samples_per_class
        middle = self._normal(classes, kind.width)
        gaps = {part: self._normal(kind.width) for part in ("target", "shapes")}
        labels = torch.arange(classes).repeat_interleave(POOL)
        self.pools: dict[str, tuple[Tensor, Tensor, bool]] = {}
        for stream, need in method.streams.items():
            level = middle[labels] + sum(gap for part, gap in gaps.items() if part in stream)
            views = VIEWS if need.modality == "shape" else 1
            noise = self._normal(len(labels), views, kind.width)
            x = self._scaled(level[:, None] + noise, kind)
            x = x if need.modality == "shape" else x[:, 0]
            self.pools[stream] = (x[..., None, None], labels, need.labelled)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random)

    def _scaled(self, x: Tensor, kind: Kind) -> Tensor:
        """Rectified so that the share and the mean of what is above 0 are those of ``kind``."""
        flat = x.flatten()
        threshold = flat[:: max(1, len(flat) // 100_000)].quantile(1 - kind.active)
        x = torch.relu(x - threshold)
        return x * (kind.size / x[x > 0].mean())

    def step(self) -> dict[str, Domain]:
        """The global batch of a step."""
        drawn = {}
        chosen = None
        if self.balanced is not None:
            chosen = torch.randperm(self.classes, generator=self._random)[: self.balanced[0]]
        for stream, (x, labels, labelled) in self.pools.items():
            if chosen is not None and self.balanced is not None:
                order = torch.rand(self.classes, POOL, generator=self._random).argsort(1)
                rows = (chosen[:, None] * POOL + order[chosen, : self.balanced[1]]).flatten()
            else:
                rows = torch.randint(len(labels), (self.batch,), generator=self._random)
            y = labels[rows] if labelled else torch.full_like(rows, -1)
            drawn[stream] = Domain(x[rows], y, samples=rows, size=len(labels))
        return drawn

    def walk(self, stream: str) -> Iterator[Domain]:
        """All samples of a stream, as a method's label step takes them."""
        x, labels, labelled = self.pools[stream]
        for rows in torch.arange(len(labels)).split(64):
            y = labels[rows] if labelled else torch.full_like(rows, -1)
            yield Domain(x[rows], y, samples=rows, size=len(labels))


@dataclass
class Result:
    """What a configuration did.

    Attributes:
        classification: the loss that learns the labels, at every step.
        gradients: at some steps, the norm of each term's weighted gradient at the features, as a
            multiple of the classification's.
        finite: whether all losses and weights were.
    """

    steps: int
    classification: list[float] = field(default_factory=list)
    gradients: dict[int, dict[str, float]] = field(default_factory=dict)
    values: dict[int, dict[str, float]] = field(default_factory=dict)
    finite: bool = True

    @property
    def fell(self) -> tuple[float, float]:
        """Mean of the classification loss over the first and the last tenth of the steps."""
        count = max(1, len(self.classification) // 10)
        first, last = self.classification[:count], self.classification[-count:]
        return sum(first) / len(first), sum(last) / len(last)

    def outside(self, method: str) -> dict[str, float]:
        """Terms without explanation whose gradient is not within the limits, from the middle on."""
        return {
            f"{term} at step {step}": ratio
            for step, gradients in self.gradients.items()
            if step * 2 >= self.steps
            for term, ratio in gradients.items()
            if not LIMITS[0] <= ratio <= LIMITS[1] and (method, term) not in EXPLAINED
        }


def shortened(config: RunConfig, steps: int) -> RunConfig:
    """The same schedule in ``steps`` steps."""
    share = steps / config.training.steps
    method = config.method
    lengths = {
        name: max(1, round(getattr(method, name) * share))
        for name in ("pretrain_steps", "pretrain_transformation_steps")
        if getattr(method, name, 0)
    }
    optimizer, network = config.optimizer, config.network
    hold = round(optimizer.hold_steps * share)
    if network.weights_files:  # which may not be here, and says the input's size
        network = network.model_copy(update={"image_size": KNOWN["caffe"].size})
    return config.model_copy(
        update={
            "network": network,
            "method": method.model_copy(update=lengths),
            "optimizer": optimizer.model_copy(update={"hold_steps": hold}),
            "training": config.training.model_copy(update={"steps": steps}),
        }
    )


def classes_of(config: RunConfig) -> int:
    """K of a paper's data set, from the description."""
    if config.data.num_classes is not None:
        return config.data.num_classes
    assert config.data.classes is not None
    return len(config.data.classes)


def train(
    name: str, steps: int, *, side: int = 2, seed: int = 0, overrides: Sequence[str] = ()
) -> Result:
    """Train a shipped description in ``steps`` steps on drawn features.

    Args:
        name: such as ``mi3dor/astn``.
        side: of the maps that HIFA looks at. AlexNet's pool5 has 6; its loss is a mean over
            positions, and fewer take less time.
    """
    config = shortened(load_config(find_config(name), overrides), steps)
    classes = classes_of(config)
    with synthetic_trunks(side):
        method = build_method(config, num_classes=classes)
    trunks = [m for m in method.modules() if isinstance(m, FeatureTrunk)]
    data, strategy, result = Features(config, classes, seed=seed), DataParallel(), Result(steps)
    model = strategy.prepare(method, config.optimizer)
    total, optimizer = method.rounds(steps), config.optimizer
    rounds = {number * steps // total: number for number in range(total)}
    looked_at = {0, steps // 2, steps - 1}
    with progress.task(f"training {name}", steps) as bar:
        for step in range(steps):
            if step in rounds:
                method.eval()
                method.start_round(rounds[step], len(rounds), data.walk)
            factor = rate_factor(optimizer.schedule, step, steps, hold_steps=optimizer.hold_steps)
            batch, now, metric = data.step(), Now(step, step / steps), 0.0
            method.train()
            for update in method.updates(step):
                for trunk in trunks:
                    trunk.given.clear()
                with strategy.only(update):
                    losses: Losses = model(batch, now, update.name)
                    if step in looked_at:
                        _look(result, step, losses, trunks)
                    strategy.backward(losses.total)
                strategy.step(factor=factor)
                metric += sum(
                    value.item()
                    for term, value in losses.terms.items()
                    if term.startswith("classification") or term.endswith("_metric")
                )
                result.finite &= all(map(math.isfinite, [v.item() for v in losses.terms.values()]))
            if metric:
                result.classification.append(metric)
            if not result.finite:
                break
            bar.at(step + 1)
    result.finite &= all(bool(p.isfinite().all()) for p in method.parameters())
    return result


def _look(result: Result, step: int, losses: Losses, trunks: list[FeatureTrunk]) -> None:
    """Keep the size of each term's gradient at the trunk's features.

    Terms that reach no trunk (DCA's transformation and discriminator) are told with their values
    alone."""
    features = [x for trunk in trunks for x in trunk.given if x.requires_grad]
    sizes = {}
    for term, value in losses.terms.items():
        result.values.setdefault(step, {})[term] = value.item()
        weighted = value * losses.weights[term]
        if not features or not weighted.requires_grad:
            continue
        found = torch.autograd.grad(weighted, features, retain_graph=True, allow_unused=True)
        size = math.sqrt(sum(float(g.square().sum()) for g in found if g is not None))
        if size > 0:
            sizes[term] = size
    base = sum(sizes[t] for t in sizes if t.startswith("classification") or t.endswith("_metric"))
    if base:
        ratios = {term: size / base for term, size in sizes.items()}
        result.gradients.setdefault(step, {}).update(ratios)


def names() -> list[str]:
    """The papers' descriptions."""
    root = find_config("mi3dor/astn").parent.parent
    return sorted(f"{p.parent.name}/{p.stem}" for f in FOLDERS for p in (root / f).glob("*.yaml"))


INTRO = """# Do the papers' configurations train?

`python benchmarks/paper_configs.py --markdown docs/evidence/paper-configs.md` trains every run
description of a paper as it stands on drawn trunk features (fc7 of AlexNet after ReLU, pooled maps
of ResNets) and goes through its whole schedule in {steps} steps. What the real data would give, it
does not say; that a configuration reaches NaN, or that a term is a thousandth of the others, it
does.

*Loss* is the cross-entropy of the labelled samples (DCA: the triplets), mean of the first and of
the last tenth of the steps. *Gradient* is the norm of a term's gradient at the trunk's features,
with its weight, as a multiple of that loss's: at the first step, in the middle, at the last.
"""


def table(results: dict[str, Result]) -> str:
    """Markdown: one line a configuration and term."""
    lines = [
        "| configuration | finite | loss | term | value | gradient |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        first, last = result.fell
        head = f"| `{name}` | {'yes' if result.finite else '**no**'} | {first:.3g} → {last:.3g} |"
        terms = dict.fromkeys(t for values in result.values.values() for t in values)
        for term in terms:
            values = " · ".join(
                f"{v[term]:.2g}" if term in v else "–" for v in result.values.values()
            )
            sizes = [result.gradients.get(step, {}) for step in result.values]
            ratios = " · ".join(f"{g[term]:.2g}" if term in g else "–" for g in sizes)
            lines.append(f"{head} {term} | {values} | {ratios} |")
            head = "| | | |"
    notes = [
        f"- `{method}`, {term}: {why}"
        for (method, term), why in EXPLAINED.items()
        if any(name.endswith(f"/{method}") for name in results)
    ]
    return "\n".join([*lines, "", *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--side", type=int, default=2, help="of the maps that HIFA looks at")
    parser.add_argument("--only", nargs="+", default=names())
    parser.add_argument("--markdown", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    results = {}
    for name in options.only:
        results[name] = result = train(name, options.steps, side=options.side)
        for term, ratio in result.outside(name.split("/")[1]).items():
            print(f"{name}: the gradient of {term} is {ratio:.2g} of the classification's")
    shown = table(results)
    print(shown)
    if options.markdown:
        options.markdown.write_text(f"{INTRO.format(steps=options.steps)}\n{shown}\n")


if __name__ == "__main__":
    main()
