"""Properties every method must pass; a new method joins by being in METHODS.

The gradient and the state after two steps are those of one process, for uneven ranks, a rank
without any target row and classes absent from a domain; degenerate batches stay finite.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from trainer.building import build_method
from trainer.config import parse_config
from trainer.engines.data_parallel import DataParallel
from trainer.losses import adversarial
from trainer.methods import METHODS, Domain, Now, Walk
from trainer.networks.network import RetrievalNetwork
from trainer.sections import OptimizerConfig

K, V, SIDE = 4, 3, 32
LABELS = {"source_images": [0, 1, 1, 2, 0, 1, 2], "source_shapes": [1, 0, 2, 1, 0]}
ROWS = {"source_images": 7, "source_shapes": 5, "target_images": 5, "target_shapes": 6}
# Rows of each stream on each rank.
SPLITS = {
    1: {name: [rows] for name, rows in ROWS.items()},
    2: dict(zip(ROWS, ([4, 3], [5, 0], [0, 5], [6, 0]), strict=True)),
    3: dict(zip(ROWS, ([3, 0, 4], [1, 4, 0], [2, 3, 0], [1, 5, 0]), strict=True)),
    4: dict(zip(ROWS, ([2, 2, 2, 1], [0, 3, 1, 1], [2, 0, 0, 3], [3, 0, 1, 2]), strict=True)),
}
VARIANTS = {
    "source-only": [{}],
    "dann": [{}, {"domain_loss": "sum"}],
    "dan": [{}, {"layers": ["embedding", "softmax"], "estimator": "unbiased"}],
    "jan": [{}],
    "deep-coral": [{}, {"layer": "embedding", "forward": "separate"}],
    "afn": [{}, {"variant": "stepwise"}],
    "entropy-minimisation": [{}],
    "cdan": [{}, {"entropy_weighting": True, "max_width": 0, "randomized_width": 8}],
    "mstn": [{}, {"reduction": "mean", "adversarial_weight": 0}],
    "dlea": [{}, {"phi": "euclidean"}],
    "hda": [{}, {"local_weight": 0, "domain_loss": "sum"}],
    "astn": [
        {},
        {"align": "instance"},
        {"phi": "squared", "afe": False},
        {"dsa": False},
        {"adversarial_weight": 0},
        {"gated_stages": ["conv1", "conv4"], "forward": "separate"},
    ],
    "daisnet": [
        {},
        {"classifier": "separate", "kernel_scales": [0.5, 2]},
        {"mining": "hard", "mmd_2d_weight": 0, "forward": "separate"},
        {"alignment": "mse", "classification_weight": 0, "entropy_weight": 0},
    ],
    "hifa": [
        {},
        {"mi": "jsd", "centers": "running", "map_stage": "conv2"},
        {"mutual_information_weight": 0, "local_weight": 0, "forward": "separate"},
    ],
    "dca": [
        {"metric_hidden": [12]},
        {"metric_hidden": [12], "pretrain_transformation_steps": 1, "generator": "nonsaturating"},
        {"metric_hidden": [12], "semantic_weight": 0, "adversarial_weight": 0},
        {"metric_hidden": [12], "metric_last_norm": True, "margin": 0.3},
    ],
    "siamese": [{"positive_scale": 50.0}],
    "dcml": [{"metric_hidden": [12]}],
    "ftspl": [
        {},
        {"statistics": "batch"},
        {"statistics": "running"},
        {"spl": False, "target_ce": 0.5, "strength": "ramp", "covariance": False},
        {"pseudo": "centroid", "shift": False, "forward": "separate"},
        {"ft": False},
    ],
    "coral": [{}],
    "gfk": [{}],
    "jgsa": [{}],
    "meda": [{}],
    "zero-shot": [{"centre": True}, {"centre": True, "normalise": False}],
}
CASES = [(name, i) for name in METHODS for i in range(len(VARIANTS.get(name, [{}])))]


def require_training(name: str) -> None:
    """Skip a test of gradients for a method that takes no step."""
    if not METHODS[name].trains:
        pytest.skip(f"{name} trains nothing: it has no loss and no gradient")


def make(name: str, variant: int, precision: str = "float64"):
    options = VARIANTS.get(name, [{}])[variant]
    config = parse_config(
        {
            "method": {"name": name, **options},
            "network": {"tiny_width": 8, "embedding": 16, "image_size": SIDE},
            "training": {"precision": precision, "seed": 5},
        }
    )
    method = build_method(config, num_classes=K)
    if isinstance(getattr(method, "network", None), RetrievalNetwork):
        # An untrained classifier gives all shapes one pseudo-label, which would leave the terms
        # that need common classes untested; centred logits spread them.
        with torch.no_grad():
            shapes = global_rows("target_shapes", 0).to(method.network.classifier.bias.dtype)
            logits = method.network.classify(method.network.embed_shapes(shapes))
            method.network.classifier.bias -= logits.mean(0)
    return method


def global_rows(stream: str, step: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(step * 10 + list(ROWS).index(stream))
    views = (V,) if stream.endswith("shapes") else ()
    shape = (ROWS[stream], *views, 3, SIDE, SIDE)
    return torch.randn(shape, dtype=torch.float64, generator=g)


def local_rows(stream: str, step: int, rank: int, world_size: int) -> Domain:
    """This rank's rows of a batch in which, by stream, one class or two are absent."""
    counts = SPLITS[world_size][stream]
    start = sum(counts[:rank])
    rows = slice(start, start + counts[rank])
    labels = torch.tensor(LABELS.get(stream, [-1] * ROWS[stream]))
    samples = (torch.arange(ROWS[stream]) + step) % ROWS[stream]
    keys = tuple(f"{stream}-{i}" for i in samples[rows].tolist())
    pixels = global_rows(stream, step)[rows]
    return Domain(pixels, labels[rows], start, keys, samples[rows], ROWS[stream])


def local_batch(name: str, step: int, rank: int, world_size: int) -> dict[str, Domain]:
    method = METHODS[name]
    streams = [s for s in method.streams if s not in method.walked]
    return {s: local_rows(s, step, rank, world_size) for s in streams}


def walk_of(rank: int, world_size: int) -> Walk:
    """The training set as methods walk it: this rank's rows, then an empty part."""

    def walk(stream: str):
        rows = local_rows(stream, 0, rank, world_size)
        yield rows
        yield replace(
            rows, pixels=rows.pixels[:0], labels=rows.labels[:0], samples=rows.samples[:0]
        )

    return walk


def two_steps(rank: int, world_size: int, name: str, variant: int):
    """Losses, gradients of the second step, and the state after a round, two steps and the end."""
    method = make(name, variant)
    strategy = DataParallel()
    model = strategy.prepare(method, OptimizerConfig(learning_rate=0.05))
    walk = walk_of(rank, world_size)
    losses, gradients = [], {}
    if method.rounds(100):
        losses.append(method.eval().start_round(1, method.rounds(100), walk))
    for step in range(2):
        method.train()
        batch, now = local_batch(name, step, rank, world_size), Now(step, 0.3 + step / 5)
        for update in method.updates(step):
            with strategy.only(update):
                result = model(batch, now, update.name)
                losses.append({**result.terms, **result.health})
                strategy.backward(result.total)
            for parameter, p in method.named_parameters():
                if p.grad is not None:
                    gradients[f"{update.name}: {parameter}"] = p.grad.numpy().copy()
            strategy.step(factor=1.0)
    with torch.no_grad():
        method.eval().finish(walk)
    state = {n: v.double().numpy() for n, v in method.state_dict().items()}
    return [{k: float(v.detach()) for k, v in part.items()} for part in losses], gradients, state


@cache
def alone(name: str, variant: int):
    """:func:`two_steps` in this process; several tests look at its result."""
    return two_steps(0, 1, name, variant)


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    if not a:  # gradients of a method that trains nothing
        return 0.0
    scale = max(float(np.abs(v).max()) for v in a.values())
    return max(float(np.abs(a[k] - b[k]).max()) for k in a) / scale


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_gradient_and_state_are_those_of_one_process(name, variant):
    losses, gradients, state = alone(name, variant)
    for world_size in (2, 4) if variant == 0 else (3,):
        for other_losses, other_gradients, other_state in run_processes(
            two_steps, world_size, name, variant
        ):
            for mine, other in zip(losses, other_losses, strict=True):
                assert other == pytest.approx(mine, rel=1e-9)
            assert largest_difference(gradients, other_gradients) < 1e-9
            assert largest_difference(state, other_state) < 1e-9


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_every_parameter_gets_a_gradient(name, variant):
    """In each update exactly the parameters of its groups: others would hang or fail DDP."""
    require_training(name)
    method = make(name, variant)
    groups = method.parameter_groups()
    names = {id(p): n for n, p in method.named_parameters()}
    _, gradients, _ = alone(name, variant)
    assert all(np.isfinite(g).all() for g in gradients.values())
    expected = {
        f"{u.name}: {names[id(p)]}"
        for step in range(2)
        for u in method.updates(step)
        for group in u.groups
        for p in groups[group]
    }
    assert gradients.keys() == expected
    moved = [n for n, g in gradients.items() if np.abs(g).max() > 0]
    assert len(moved) >= 0.9 * len(gradients), set(gradients) - set(moved)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_parameter_groups_cover_everything_once(name, variant):
    method = make(name, variant)
    groups = method.parameter_groups()
    trunks = [n for n, _ in method.named_parameters() if ".trunk." in f".{n}"]
    assert sum(len(g) for n, g in groups.items() if n.endswith("trunk")) == len(trunks)
    everything = [id(p) for group in groups.values() for p in group]
    assert sorted(everything) == sorted(id(p) for p in method.parameters())
    assert (
        {g for step in range(10**5) for u in method.updates(step) for g in u.groups} == {*groups}
        if method.alternates
        else True
    )
    assert not method.pretrained


PIXELS = {"all zero": 0.0, "identical": 1.0, "one sample": 1.0, "no target": 1.0}
COUNTS = {"all zero": 3, "identical": 3, "one sample": 1, "no target": 2}


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_degenerate_batches_are_finite(name, variant):
    require_training(name)
    for kind in PIXELS:
        require_finite_steps(name, variant, kind)


def require_finite_steps(name: str, variant: int, kind: str) -> None:
    method, batch = make(name, variant, "float32"), {}
    for stream in local_batch(name, 0, 0, 1):
        rows = 0 if kind == "no target" and stream.startswith("target") else COUNTS[kind]
        views = (V,) if stream.endswith("shapes") else ()
        pixels = torch.full((rows, *views, 3, SIDE, SIDE), PIXELS[kind])
        labels = torch.full((rows,), 0 if stream.startswith("source") else -1)
        batch[stream] = Domain(pixels, labels, 0, (), torch.arange(rows), max(rows, 1))
    strategy = DataParallel()
    strategy.prepare(method, OptimizerConfig())
    for update in method.updates(0):
        with strategy.only(update):
            result = method(batch, Now(0, 0.5), update.name)
            result.total.backward()
        assert torch.isfinite(result.total), kind
        learning = [p for g in update.groups for p in method.parameter_groups()[g]]
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in learning), kind
        method.zero_grad()


def slow_semantic_loss(f_s, y_s, f_t, y_t, centers, *, alpha, theta):
    """ASTN eq. 4-10 with plain loops; ``centers`` are last step's (source, target, mixed)."""
    batches = [(f_s, y_s), (f_t, y_t), (f_s + f_t, y_s + y_t)]
    new = []
    for (features, labels), old in zip(batches, centers, strict=True):
        rows = {}
        for k in range(K):
            mine = [np.array(f) for f, y in zip(features, labels, strict=True) if y == k]
            if mine:
                mean = sum(mine) / len(mine)
                rows[k] = theta * mean + (1 - theta) * old[k] if k in old else mean
            elif k in old:
                rows[k] = old[k]
        new.append(rows)
    source, target, mixed = new
    total = 0.0
    for k in set(source) & set(target):
        total += np.linalg.norm(source[k] - target[k])
        total += alpha * np.linalg.norm(source[k] - mixed[k])
        total += alpha * np.linalg.norm(target[k] - mixed[k])
    return total, new


def test_astn_semantic_loss_equals_plain_loops_over_three_steps():
    method = make("astn", 0)
    centers = [{}, {}, {}]
    for step in range(3):
        batch = local_batch("astn", step, 0, 1)
        # Gates move with progress: features and pseudo-labels are taken at this step's gates.
        result = method(batch, Now(step, 0.4))
        with torch.no_grad():
            f_s, f_t = method.embed(batch["source_images"], batch["target_shapes"])
            y_t = method.network.classify(f_t).argmax(1).tolist()
        expected, centers = slow_semantic_loss(
            f_s.tolist(),
            batch["source_images"].labels.tolist(),
            f_t.tolist(),
            y_t,
            centers,
            alpha=0.3,
            theta=0.3,
        )
        assert result.terms["semantic"].item() == pytest.approx(expected, rel=1e-10)


def test_astn_total_is_the_weighted_sum_of_equation_11():
    method = make("astn", 0)
    result = method(local_batch("astn", 0, 0, 1), Now(0, 0.25))
    lam = 2 / (1 + np.exp(-2.5)) - 1
    terms = {k: v.item() for k, v in result.terms.items()}
    expected = terms["classification"] + terms["domain"] + lam * terms["semantic"]
    assert result.total.item() == pytest.approx(expected, rel=1e-12)


def test_adversarial_gradient_reaches_the_trunk_reversed():
    """λ scales what the trunk receives and leaves the discriminator's own gradient alone."""

    def gradients(progress: float):
        method = make("dann", 0).eval()
        method.network.discriminator.eval()
        result = method(local_batch("dann", 0, 0, 1), Now(0, progress))
        result.terms["domain"].backward()
        head = method.network.discriminator[0].weight.grad.clone()
        return method.network.bottleneck.weight.grad.clone(), head

    trunk_a, head_a = gradients(0.1)
    trunk_b, head_b = gradients(1.0)
    lam = [2 / (1 + np.exp(-10 * p)) - 1 for p in (0.1, 1.0)]
    torch.testing.assert_close(head_a, head_b)
    torch.testing.assert_close(trunk_a * (lam[1] / lam[0]), trunk_b)
    # Without reversal: the plain gradient of the same loss, opposite in sign.
    method = make("dann", 0).eval()
    batch = local_batch("dann", 0, 0, 1)
    f_s, f_t = method.embed(batch["source_images"], batch["target_shapes"])
    adversarial(*method.network.discriminate(f_s, f_t)).backward()
    torch.testing.assert_close(trunk_b, -lam[1] * method.network.bottleneck.weight.grad)
