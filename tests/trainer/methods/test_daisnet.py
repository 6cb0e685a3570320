"""DAIS-NET: triplets against plain loops, draws at any world size, the total of eq. 12."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.spawn import run_processes
from tests.trainer.losses.test_losses import numeric_gradient
from trainer.config import ConfigError, parse_config
from trainer.losses import cross_entropy, entropy, mmd
from trainer.losses.triplet import Draw, cross_modal_triplet, paired_squared_distance
from trainer.methods.base import Domain, Now
from trainer.methods.daisnet import DaisNet, DaisNetConfig
from trainer.networks.options import NetworkConfig

# Class 3 has an image and no shape, class 4 a shape and no image.
Y, Z = torch.tensor([0, 2, 1, 2, 0, 3]), torch.tensor([1, 0, 2, 0, 4, 2, 1])
COUNTS = {
    1: ([6], [7]),
    2: ([6, 0], [3, 4]),
    3: ([2, 0, 4], [0, 7, 0]),
    4: ([1, 3, 2, 0], [2, 2, 2, 1]),
}
DRAW = Draw(seed=3, step=7, offset=0)


def data(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    images = torch.randn(6, 3, dtype=torch.float64, generator=g)
    return images, torch.randn(7, 3, dtype=torch.float64, generator=g)


def squared(a, b) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def slow_hard(images, shapes, margin: float) -> float:
    values = []
    for f, y in zip(images.tolist(), Y.tolist(), strict=True):
        gallery = list(zip(shapes.tolist(), Z.tolist(), strict=True))
        same = [squared(f, r) for r, z in gallery if z == y]
        other = [squared(f, r) for r, z in gallery if z != y]
        if same and other:
            values.append(max(max(same) - min(other) + margin, 0.0))
    return sum(values) / len(values)


def slow_random(images, shapes, margin: float | None) -> float:
    """With the draws as indices; ``margin`` None is the anchor-positive half."""
    positive, negative = drawn(DRAW)
    values = []
    for i, y in enumerate(Y.tolist()):
        if y in Z.tolist():
            near = squared(images[i].tolist(), shapes[positive[i]].tolist())
            far = squared(images[i].tolist(), shapes[negative[i]].tolist())
            values.append(near if margin is None else max(near - far + margin, 0.0))
    return sum(values) / len(values)


def drawn(draw: Draw) -> tuple[list[int], list[int]]:
    same = Y[draw.offset :, None] == Z
    return draw.choose(same, "positive").tolist(), draw.choose(~same, "negative").tolist()


def triplet(images, shapes, **options):
    return cross_modal_triplet(images, Y, shapes, Z, draw=DRAW, **options)


def paired(images, shapes, **options):
    return paired_squared_distance(images, Y, shapes, Z, draw=DRAW, **options)


CASES = {
    "random": (lambda a, b: triplet(a, b, margin=0.5), lambda a, b: slow_random(a, b, 0.5)),
    "hard": (
        lambda a, b: triplet(a, b, margin=0.5, mining="hard"),
        lambda a, b: slow_hard(a, b, 0.5),
    ),
    "paired": (paired, lambda a, b: slow_random(a, b, None)),
    "paired hard": (
        lambda a, b: paired(a, b, mining="hard"),
        lambda a, b: (
            sum(
                max(squared(f, r) for r, z in zip(b.tolist(), Z, strict=True) if z == y)
                for f, y in zip(a.tolist(), Y[:5], strict=False)
            )
            / 5
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient_equal_a_slow_computation(name):
    loss, slow = CASES[name]
    images, shapes = (x.requires_grad_() for x in data())
    value = loss(images, shapes)
    value.backward()
    a, b = images.detach(), shapes.detach()
    assert value.item() == pytest.approx(slow(a, b), rel=1e-12)
    np.testing.assert_allclose(images.grad, numeric_gradient(lambda x: slow(x, b), a), atol=1e-7)
    np.testing.assert_allclose(shapes.grad, numeric_gradient(lambda x: slow(a, x), b), atol=1e-7)
    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in data(2)))


def test_draws_are_of_the_right_class_uniform_and_new_every_step():
    same = Y[:, None] == Z
    counts = torch.zeros_like(same, dtype=torch.long)
    for step in range(600):
        positive, negative = drawn(Draw(seed=1, step=step, offset=0))
        for i in range(5):
            assert same[i, positive[i]]
            assert not same[i, negative[i]]
            counts[i, positive[i]] += 1
    twice = counts[:5][same[:5]]  # every class of the first five has two shapes
    assert ((twice > 240) & (twice < 360)).all()
    steps = [drawn(Draw(seed=1, step=s, offset=0)) for s in range(8)]
    assert len({str(d) for d in steps}) > 4
    assert drawn(Draw(seed=1, step=0, offset=0)) != drawn(Draw(seed=2, step=0, offset=0))
    later = drawn(Draw(seed=1, step=0, offset=2))
    assert later == tuple(part[2:] for part in steps[0])


def on_rank(rank: int, world_size: int, name: str):
    n, m = COUNTS[world_size]
    mine, theirs = (slice(sum(c[:rank]), sum(c[: rank + 1])) for c in (n, m))
    images, shapes = data(3)
    images, shapes = images[mine].requires_grad_(), shapes[theirs].requires_grad_()
    draw = Draw(seed=3, step=7, offset=mine.start)
    function = paired_squared_distance if name == "paired" else cross_modal_triplet
    mining = "hard" if name == "hard" else "random"
    loss = function(images, Y[mine], shapes, Z[theirs], draw=draw, mining=mining)
    loss.backward()
    return loss.item(), images.grad.numpy() / world_size, shapes.grad.numpy() / world_size


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("name", ["random", "hard", "paired"])
def test_uneven_and_empty_ranks_give_the_one_process_loss(name, world_size):
    value, *gradients = on_rank(0, 1, name)
    results = run_processes(on_rank, world_size, name)
    assert [r[0] for r in results] == pytest.approx([value] * world_size, rel=1e-12)
    for i, gradient in enumerate(gradients, start=1):
        together = np.concatenate([r[i] for r in results])
        np.testing.assert_allclose(together, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("mining", ["random", "hard"])
@pytest.mark.parametrize(
    ("y", "z"), [([0], [0]), ([0], [1]), ([0, 1], []), ([], [0, 1]), ([], []), ([0, 0], [0, 0])]
)
def test_without_a_positive_or_a_negative_the_loss_is_zero(y, z, mining):
    images = torch.ones(len(y), 3).requires_grad_()
    shapes = torch.ones(len(z), 3).requires_grad_()
    rows = (images, torch.tensor(y).long(), shapes, torch.tensor(z).long())
    loss = cross_modal_triplet(*rows, draw=DRAW, mining=mining)
    pair = paired_squared_distance(*rows, draw=DRAW, mining=mining)
    (loss + pair).backward()
    assert loss.item() == pair.item() == 0
    assert torch.isfinite(images.grad).all()
    assert torch.isfinite(shapes.grad).all()


def test_identical_features_cost_the_margin():
    rows = (torch.ones(2, 3), torch.tensor([0, 1]), torch.ones(2, 3), torch.tensor([0, 1]))
    assert cross_modal_triplet(*rows, draw=DRAW, margin=0.7).item() == pytest.approx(0.7)


STREAMS = {"source_images": 5, "source_shapes": 4, "target_images": 3, "target_shapes": 6}
LABELS = {"source_images": [0, 1, 1, 2, 0], "source_shapes": [1, 0, 2, 1]}


def make(**options) -> DaisNet:
    torch.manual_seed(0)
    network = NetworkConfig(tiny_width=8, embedding=6, image_size=32)
    return DaisNet(DaisNetConfig(**options), network, num_classes=3, seed=5).double()


def batch(seed: int = 0) -> dict[str, Domain]:
    g, found = torch.Generator().manual_seed(seed), {}
    for name, rows in STREAMS.items():
        views = (2,) if name.endswith("shapes") else ()
        x = torch.randn(rows, *views, 3, 32, 32, dtype=torch.float64, generator=g)
        found[name] = Domain(x, torch.tensor(LABELS.get(name, [-1] * rows)))
    return found


@pytest.mark.parametrize("classifier", ["shared", "separate"])
@pytest.mark.parametrize("forward", ["joint", "separate"])
def test_terms_are_those_of_each_stream_alone_and_total_is_equation_12(forward, classifier):
    scales = (1.0,) if classifier == "shared" else (0.5, 2.0)
    options = {"mining": "hard", "margin": 0.5, "kernel_scales": scales}
    method, rows = make(forward=forward, classifier=classifier, **options), batch()
    result = method(rows, Now(0, 0.25))
    with torch.no_grad():
        q_s, q_t = (method.embed_queries(rows[f"{d}_images"].pixels) for d in ("source", "target"))
        r_s, r_t = (method.embed_gallery(rows[f"{d}_shapes"].pixels) for d in ("source", "target"))
        c_q = c_r = method.network.classifier
        assert (method.shape_network.classifier is None) == (classifier == "shared")
        if classifier == "separate":
            c_r = method.shape_network.classifier
        y, z = rows["source_images"].labels, rows["source_shapes"].labels
        expected = {
            "mmd_2d": mmd(q_s, q_t, scales=scales),
            "mmd_3d": mmd(r_s, r_t, scales=scales),
            "classification_2d": cross_entropy(c_q(q_s), y),
            "classification_3d": cross_entropy(c_r(r_s), z),
            "entropy_2d": entropy(c_q(q_t)),
            "entropy_3d": entropy(c_r(r_t)),
            "triplet": cross_modal_triplet(q_s, y, r_s, z, draw=DRAW, margin=0.5, mining="hard"),
        }
    assert result.terms.keys() == expected.keys()
    for name, value in expected.items():
        assert result.terms[name].item() == pytest.approx(value.item(), rel=1e-10), name
    weights = {name: 0.1 if name.startswith("entropy") else 1.0 for name in expected}
    total = sum(weights[name] * value.item() for name, value in expected.items())
    assert result.total.item() == pytest.approx(total, rel=1e-10)
    assert math.isfinite(result.health["cross_modal_accuracy"].item())


def gradients(method: DaisNet) -> dict[str, torch.Tensor]:
    method(batch(), Now(0, 0.5)).total.backward()
    assert all(p.grad is not None for p in method.parameters())
    return {n: p.grad for n, p in method.named_parameters()}


@pytest.mark.parametrize(
    ("options", "terms"),
    [
        ({"alignment_weight": 0, "entropy_weight": 0}, {"mmd", "classification"}),
        ({"mmd_2d_weight": 0, "mmd_3d_weight": 0}, {"classification", "entropy", "triplet"}),
        ({"classification_weight": 0}, {"mmd", "entropy", "triplet"}),
        ({"alignment": "mse", "entropy_weight": 0}, {"mmd", "classification", "mse"}),
    ],
)
def test_a_weight_of_zero_removes_a_loss(options, terms):
    method = make(**options)
    found = method(batch(), Now(0, 0.5)).terms
    assert {name.removesuffix("_2d").removesuffix("_3d") for name in found} == terms
    gradients(method)


def test_without_label_losses_the_classifiers_only_measure():
    """The row of table 3 without L_CE and L_E: labels reach the trunks by the triplets alone."""
    options = {"classification_weight": 0, "entropy_weight": 0, "alignment_weight": 0}
    measured = gradients(make(**options))
    method = make(**options)
    terms = method(batch(), Now(0, 0.5)).terms
    (terms["mmd_2d"] + terms["mmd_3d"]).backward()
    for name, parameter in method.named_parameters():
        if "classifier" in name:
            assert measured[name].abs().max() > 0
        else:
            torch.testing.assert_close(measured[name], parameter.grad)


def test_mse_is_a_mean_over_coordinates_or_a_sum_as_in_the_triplets():
    mean, total = (make(alignment="mse", mse=how)(batch(), Now(0, 0.5)) for how in ("mean", "sum"))
    width = make().network.config.embedding
    assert total.terms["mse"].item() == pytest.approx(width * mean.terms["mse"].item(), rel=1e-12)


def test_a_shared_classifier_learns_from_both_modalities_and_scores_both():
    method = make(entropy_weight=0, mmd_2d_weight=0, mmd_3d_weight=0, alignment_weight=0)
    rows = batch()
    result = method(rows, Now(0, 0.5))
    result.total.backward()
    y, z = rows["source_images"].labels, rows["source_shapes"].labels
    together = method.network.classifier.weight.grad.clone()
    parts = []
    for embed, stream, labels in (
        (method.embed_queries, "source_images", y),
        (method.embed_gallery, "source_shapes", z),
    ):
        method.zero_grad()
        cross_entropy(method.network.classify(embed(rows[stream].pixels)), labels).backward()
        parts.append(method.network.classifier.weight.grad.clone())
    torch.testing.assert_close(together, parts[0] + parts[1])
    shapes = rows["target_shapes"].pixels
    expected = method.network.classify(method.embed_gallery(shapes))
    torch.testing.assert_close(method.class_logits(shapes), expected)
    names = [name for group in method.parameter_groups().values() for name in map(id, group)]
    assert len(names) == len(set(names)) == len(list(method.parameters()))


def test_a_trunk_that_no_loss_trains_is_refused():
    weights = dict.fromkeys(
        ("classification_weight", "alignment_weight", "entropy_weight", "mmd_3d_weight"), 0
    )
    with pytest.raises(ConfigError, match="mmd_3d_weight are 0, so nothing trains the shape trunk"):
        parse_config({"method": {"name": "daisnet", **weights}})


def test_queries_and_gallery_have_their_own_trunks_and_groups():
    method = make()
    groups = method.parameter_groups()
    assert list(groups) == ["image.trunk", "image.new", "shape.trunk", "shape.new"]
    x = batch()["target_shapes"].pixels
    assert not torch.allclose(method.embed_gallery(x[:, :1]), method.embed_queries(x[:, 0]))
    assert {id(p) for n in ("image.trunk", "image.new") for p in groups[n]} == {
        id(p) for p in method.network.parameters()
    }
