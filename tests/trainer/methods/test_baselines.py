"""What is new in each baseline's total, against plain loops; totals as weighted sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from tests.trainer.methods.test_methods import K, local_batch
from trainer.building import build_method
from trainer.config import parse_config
from trainer.losses import coral, entropy, feature_norm, jmmd, mmd
from trainer.methods import Now
from trainer.synchronised.collectives import all_reduce_sum

P = 0.25
RAMP = 2 / (1 + math.exp(-10 * P)) - 1


def make(name: str, *, network: dict | None = None, **options):
    config = parse_config(
        {
            "method": {"name": name, **options},
            "network": {"tiny_width": 8, "embedding": 16, "image_size": 32, **(network or {})},
            "training": {"precision": "float64", "seed": 5},
        }
    )
    method = build_method(config, num_classes=K)
    # An untrained classifier gives all shapes one pseudo-label; centred logits spread them.
    with torch.no_grad():
        shapes = local_batch("dann", 0, 0, 1)["target_shapes"].pixels
        logits = method.network.classify(method.network.embed_shapes(shapes))
        method.network.classifier.bias -= logits.mean(0)
    return method


def step(method, number: int = 0):
    """One step's losses, with the features and labels they were made of."""
    batch = local_batch(method.name, number, 0, 1)
    result = method(batch, Now(number, P))
    with torch.no_grad():
        f_s, f_t = method.embed(batch["source_images"], batch["target_shapes"])
        logits = method.network.classify(f_s), method.network.classify(f_t)
    labels = batch["source_images"].labels, logits[1].argmax(1)
    return result, (f_s, f_t), logits, labels


def slow_centers(features, labels):
    return {
        k: np.mean([f for f, y in zip(features.numpy(), labels.tolist(), strict=True) if y == k], 0)
        for k in set(labels.tolist())
    }


def moved(old, batch, theta):
    new = dict(old)
    for k, mean in batch.items():
        new[k] = theta * mean + (1 - theta) * old[k] if k in old else mean
    return new


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_mstn_equals_plain_loops_over_three_steps(reduction):
    method = make("mstn", reduction=reduction)
    source, target = {}, {}
    for number in range(3):
        result, features, _, labels = step(method, number)
        source = moved(source, slow_centers(features[0], labels[0]), 0.3)
        target = moved(target, slow_centers(features[1], labels[1]), 0.3)
        both = source.keys() & target.keys()
        assert both
        expected = sum(((source[k] - target[k]) ** 2).sum() for k in both)
        expected /= len(both) * 16 if reduction == "mean" else 1
        assert result.terms["semantic"].item() == pytest.approx(expected, rel=1e-10)
        terms = {k: v.item() for k, v in result.terms.items()}
        total = terms["classification"] + terms["domain"] + RAMP * terms["semantic"]
        assert result.total.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("phi", ["squared", "euclidean"])
def test_dlea_aligns_the_centres_of_the_batch_alone(phi):
    method = make("dlea", phi=phi, reduction="sum", center_weight=0.5)
    for number in range(2):  # nothing is remembered
        result, features, _, labels = step(method, number)
        source, target = (slow_centers(f, y) for f, y in zip(features, labels, strict=True))
        both = source.keys() & target.keys()
        squares = [((source[k] - target[k]) ** 2).sum() for k in both]
        expected = sum(squares) if phi == "squared" else sum(math.sqrt(v) for v in squares)
        assert both
        assert result.health["shared_classes"].item() == len(both)
        assert result.terms["center"].item() == pytest.approx(expected, rel=1e-10)
        terms = {k: v.item() for k, v in result.terms.items()}
        total = terms["classification"] + terms["domain"] + 0.5 * RAMP * terms["center"]
        assert result.total.item() == pytest.approx(total, rel=1e-12)


def expected_terms(features, logits):
    """Each one-term method's options, term, value and weight."""
    (f_s, f_t), (l_s, l_t) = features, logits
    p_s, p_t = l_s.softmax(1), l_t.softmax(1)
    both = {"layers": ["embedding", "softmax"], "estimator": "unbiased", "weight": 0.3}
    unbiased = [mmd(a, b, estimator="unbiased") for a, b in ((f_s, f_t), (p_s, p_t))]
    hard = feature_norm(f_s, radius=3.0) + feature_norm(f_t, radius=3.0)
    stepwise = {"variant": "stepwise", "delta": 0.5, "weight": 0.1}
    return [
        ("dan", {}, "mmd", mmd(f_s, f_t), 1.0),
        ("dan", both, "mmd", unbiased[0] + unbiased[1], 0.3),
        ("jan", {"weight": 2.0}, "joint_mmd", jmmd([f_s, p_s], [f_t, p_t]), 2 * RAMP),
        ("deep-coral", {"weight": 0.7}, "coral", coral(l_s, l_t), 0.7),
        ("deep-coral", {"layer": "embedding"}, "coral", coral(f_s, f_t), 1.0),
        ("afn", {"radius": 3.0}, "norm", hard, 0.05),
        ("afn", stepwise, "norm", torch.tensor(2 * 0.25), 0.1),
        ("entropy-minimisation", {"weight": 0.2}, "entropy", entropy(l_t), 0.2),
    ]


@pytest.mark.parametrize("case", range(8))
def test_total_is_the_source_loss_plus_one_weighted_term(case):
    # Same seed, same parts: the features are those of every method here.
    _, features, logits, _ = step(make("dan"))
    name, options, term, value, weight = expected_terms(features, logits)[case]
    result, *_ = step(make(name, **options))
    assert set(result.terms) == {"classification", term}
    assert result.terms[term].item() == pytest.approx(value.item(), rel=1e-9)
    expected = result.terms["classification"].item() + weight * value.item()
    assert result.total.item() == pytest.approx(expected, rel=1e-10)


def slow_binary(logits, weights, sign):
    losses = [math.log1p(math.exp(-sign * v)) for v in logits.tolist()]
    return sum(w * v for w, v in zip(weights, losses, strict=True)) / sum(weights)


@pytest.mark.parametrize("randomized", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_cdan_equals_plain_loops(randomized, weighted):
    options = {"max_width": 0, "randomized_width": 8} if randomized else {}
    method = make(
        "cdan", entropy_weighting=weighted, network={"discriminator_dropout": 0.0}, **options
    )
    result, features, logits, _ = step(method)
    sides = []
    for f, rows, sign in zip(features, logits, (1, -1), strict=True):
        g = rows.softmax(1)
        inputs = torch.stack([torch.outer(a, b).flatten() for a, b in zip(f, g, strict=True)])
        if randomized:
            maps = method.feature_map, method.prediction_map
            inputs = torch.stack(
                [(a @ maps[0]) * (b @ maps[1]) / math.sqrt(8) for a, b in zip(f, g, strict=True)]
            )
        entropies = [-sum(v * math.log(v) for v in row) for row in g.tolist()]
        weights = [1 + math.exp(-h) if weighted else 1.0 for h in entropies]
        with torch.no_grad():
            sides.append(slow_binary(method.discriminator(inputs), weights, sign))
    assert result.terms["domain"].item() == pytest.approx(sum(sides) / 2, rel=1e-9)
    assert method.network.discriminator is None


def test_cdan_takes_the_randomised_map_when_the_product_is_wide():
    assert not make("cdan").randomized
    wide = make("cdan", network={"embedding": 1025})
    assert wide.randomized
    assert wide.discriminator[0].in_features == 1024


def test_hda_levels_equal_plain_loops():
    weights = {"adversarial_weight": 0.3, "local_weight": 0.2, "class_weight": 0.1}
    weights |= {"reduction": "sum"}
    method = make("hda", network={"discriminator_dropout": 0.0}, **weights)
    batch = local_batch("hda", 0, 0, 1)
    result, features, _, labels = step(method)
    with torch.no_grad():
        pair = method.encode(batch["source_images"], batch["target_shapes"])
        sides = []
        for maps, sign in ((pair.map_s[:, None], 1), (pair.map_t, -1)):
            n, views, _, h, w = maps.shape
            positions = [
                maps[i, v, :, y, x]
                for i in range(n)
                for v in range(views)
                for y in range(h)
                for x in range(w)
            ]
            logits = method.local_discriminator(torch.stack(positions))
            sides.append(slow_binary(logits, [1.0] * len(positions), sign))
    assert result.terms["local"].item() == pytest.approx(sum(sides) / 2, rel=1e-9)
    source, target = (slow_centers(f, y) for f, y in zip(features, labels, strict=True))
    expected = sum(((source[k] - target[k]) ** 2).sum() for k in source.keys() & target.keys())
    assert result.terms["class"].item() == pytest.approx(expected, rel=1e-10)
    terms = {k: v.item() for k, v in result.terms.items()}
    total = terms["classification"] + terms["domain"] + terms["local"] + 0.1 * RAMP * terms["class"]
    assert result.total.item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "head", "weight"),
    [
        ("cdan", "discriminator", "adversarial_weight"),
        ("hda", "local_discriminator", "local_weight"),
    ],
)
def test_reversal_reaches_the_trunk_only(name, head, weight):
    """Twice the weight: twice the gradient for the trunk, the same for the discriminator."""

    def gradients(value: float):
        method = make(name, **{weight: value}).eval()
        term = "domain" if name == "cdan" else "local"
        result = method(local_batch(name, 0, 0, 1), Now(0, P))
        result.terms[term].backward()
        trunk = next(p for p in method.network.trunk_parameters() if p.grad is not None)
        return trunk.grad, getattr(method, head)[0].weight.grad

    (trunk, mine), (twice, same) = gradients(0.5), gradients(1.0)
    assert trunk.abs().max() > 0
    torch.testing.assert_close(2 * trunk, twice)
    torch.testing.assert_close(mine, same)


@pytest.mark.parametrize("name", ["mstn", "dlea", "hda", "cdan"])
def test_weight_zero_leaves_the_discriminator_out(name):
    method = make(name, adversarial_weight=0)
    assert method.network.discriminator is None
    assert "domain" not in step(method)[0].terms


def centre_gradients(rank: int, world_size: int, name: str):
    """Terms, averaged gradients and buffers after two batches in which both domains share classes;
    what a fresh classifier hides by giving every shape the same pseudo-label."""
    method = make(name)
    for number in range(2):
        method.zero_grad()
        result = method(local_batch(name, number, rank, world_size), Now(number, P))
        result.total.backward()
    with torch.no_grad():
        gradients = [all_reduce_sum(p.grad) / world_size for p in method.parameters()]
    terms = {k: v.item() for k, v in result.terms.items()}
    buffers = [b.double() for b in method.buffers()]
    return terms, [v.numpy() for v in gradients + buffers]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize(
    ("name", "term"), [("mstn", "semantic"), ("dlea", "center"), ("hda", "class")]
)
def test_centre_terms_at_work_are_those_of_one_process(name, term, world_size):
    terms, expected = centre_gradients(0, 1, name)
    assert terms[term] > 0
    for other, found in run_processes(centre_gradients, world_size, name):
        assert other == pytest.approx(terms, rel=1e-9)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9 * np.abs(b).max())
