"""Properties every method must pass; a new method joins by being in METHODS.

The gradient and the state after two steps are those of one process, for uneven ranks, a rank
without any target row and classes absent from a domain; degenerate batches stay finite.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from trainer.config import OptimizerConfig, parse_config
from trainer.loop import build_method
from trainer.losses import adversarial
from trainer.methods import METHODS, Domain
from trainer.strategy import DataParallel

K, N, M, V, SIDE = 4, 7, 6, 3, 32
# Source and target rows of each rank.
SPLITS = {
    1: ([7], [6]),
    2: ([4, 3], [6, 0]),
    3: ([3, 0, 4], [1, 5, 0]),
    4: ([2, 2, 2, 1], [3, 0, 1, 2]),
}
VARIANTS = {
    "source-only": [{}],
    "dann": [{}, {"domain_loss": "sum"}],
    "astn": [
        {},
        {"align": "instance"},
        {"phi": "squared", "afe": False},
        {"dsa": False},
        {"adversarial_weight": 0},
        {"gated_stages": ["conv1", "conv4"], "forward": "separate"},
    ],
}
CASES = [(name, i) for name in METHODS for i in range(len(VARIANTS.get(name, [{}])))]


def make(name: str, variant: int, precision: str = "float64"):
    options = VARIANTS.get(name, [{}])[variant]
    config = parse_config(
        {
            "method": {"name": name, **options},
            "network": {"tiny_width": 8, "embedding": 16, "image_size": SIDE},
            "training": {"precision": precision, "seed": 5},
        }
    )
    return build_method(config, num_classes=K)


def global_batch(step: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images and shapes whose labels leave out one class each."""
    g = torch.Generator().manual_seed(step)
    images = torch.randn(N, 3, SIDE, SIDE, dtype=torch.float64, generator=g)
    shapes = torch.randn(M, V, 3, SIDE, SIDE, dtype=torch.float64, generator=g)
    return {
        "source_images": (images, torch.tensor([0, 1, 1, 2, 0, 1, 2])),
        "target_shapes": (shapes, torch.full((M,), -1)),
    }


def local_batch(name: str, step: int, rank: int, world_size: int) -> dict[str, Domain]:
    batch = {}
    for counts, (stream, (pixels, labels)) in zip(
        SPLITS[world_size], global_batch(step).items(), strict=True
    ):
        if stream not in METHODS[name].streams:
            continue
        start = sum(counts[:rank])
        rows = slice(start, start + counts[rank])
        keys = tuple(f"{stream}-{i}" for i in range(start, start + counts[rank]))
        batch[stream] = Domain(pixels[rows], labels[rows], start, keys)
    return batch


def two_steps(rank: int, world_size: int, name: str, variant: int):
    """Losses, gradients of the second step, and all parameters and buffers after it."""
    method = make(name, variant)
    strategy = DataParallel()
    model = strategy.prepare(method, OptimizerConfig(learning_rate=0.05))
    losses, gradients = [], {}
    for step in range(2):
        result = model(
            local_batch(name, step, rank, world_size), step=step, progress=0.3 + step / 5
        )
        losses.append({k: v.item() for k, v in {**result.terms, **result.health}.items()})
        strategy.backward(result.total)
        gradients = {n: p.grad.numpy().copy() for n, p in method.named_parameters()}
        strategy.step(factor=1.0)
    state = {n: v.double().numpy() for n, v in method.state_dict().items()}
    return losses, gradients, state


def largest_difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    assert a.keys() == b.keys()
    scale = max(float(np.abs(v).max()) for v in a.values())
    return max(float(np.abs(a[k] - b[k]).max()) for k in a) / scale


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_gradient_and_state_are_those_of_one_process(name, variant):
    losses, gradients, state = two_steps(0, 1, name, variant)
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
    """A parameter outside the graph would hang or fail DDP."""
    _, gradients, _ = two_steps(0, 1, name, variant)
    assert all(np.isfinite(g).all() for g in gradients.values())
    moved = [n for n, g in gradients.items() if np.abs(g).max() > 0]
    assert len(moved) >= 0.9 * len(gradients), set(gradients) - set(moved)


@pytest.mark.parametrize("name", METHODS)
def test_parameter_groups_cover_everything_once(name):
    method = make(name, 0)
    groups = method.parameter_groups()
    assert [id(p) for p in groups["trunk"]] == [id(p) for p in method.network.trunk_parameters()]
    everything = [id(p) for group in groups.values() for p in group]
    assert sorted(everything) == sorted(id(p) for p in method.parameters())
    assert not method.network.pretrained


DEGENERATE = {
    "all zero": (torch.zeros(3, 3, SIDE, SIDE), torch.zeros(3, V, 3, SIDE, SIDE)),
    "identical": (torch.ones(3, 3, SIDE, SIDE), torch.ones(3, V, 3, SIDE, SIDE)),
    "one sample": (torch.ones(1, 3, SIDE, SIDE), torch.ones(1, V, 3, SIDE, SIDE)),
    "no target": (torch.ones(2, 3, SIDE, SIDE), torch.ones(0, V, 3, SIDE, SIDE)),
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_degenerate_batches_are_finite(name, variant, kind):
    images, shapes = DEGENERATE[kind]
    method = make(name, variant, "float32")
    batch = {
        "source_images": Domain(images, torch.zeros(len(images), dtype=torch.long)),
        "target_shapes": Domain(shapes, torch.full((len(shapes),), -1)),
    }
    result = method(batch, step=0, progress=0.5)
    result.total.backward()
    assert torch.isfinite(result.total)
    for parameter in method.parameters():
        assert parameter.grad is not None
        assert torch.isfinite(parameter.grad).all()


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
        result = method(batch, step=step, progress=0.4)
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
    result = method(local_batch("astn", 0, 0, 1), step=0, progress=0.25)
    lam = 2 / (1 + np.exp(-2.5)) - 1
    terms = {k: v.item() for k, v in result.terms.items()}
    expected = terms["classification"] + terms["domain"] + lam * terms["semantic"]
    assert result.total.item() == pytest.approx(expected, rel=1e-12)


def test_adversarial_gradient_reaches_the_trunk_reversed():
    """λ scales what the trunk receives and leaves the discriminator's own gradient alone."""

    def gradients(progress: float):
        method = make("dann", 0).eval()
        method.network.discriminator.eval()
        result = method(local_batch("dann", 0, 0, 1), step=0, progress=progress)
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
