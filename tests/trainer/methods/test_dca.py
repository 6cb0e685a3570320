"""DCA, Siamese and DCML: who learns when, from what, and what is searched with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from trainer.engines.data_parallel import DataParallel
from trainer.methods.base import Domain, Now
from trainer.methods.dca import Dca, DcaConfig
from trainer.methods.dcml import Dcml, DcmlConfig
from trainer.methods.siamese import Siamese, SiameseConfig
from trainer.networks.metric_network import MetricBranch, MetricNetwork, Transformation
from trainer.networks.options import NetworkConfig
from trainer.sections import OptimizerConfig

K, SIDE, VIEWS = 4, 32, 3
NETWORK = NetworkConfig(tiny_width=8, embedding=6, image_size=SIDE)
SMALL = {"metric_hidden": (12,), "transformation_hidden": (8,), "discriminator_hidden": (8,)}
SKETCH_LABELS, SHAPE_LABELS = [2, 0, 1, 0, 2, 1, 1], [1, 0, 0, 3, 1]


def make(**options) -> Dca:
    torch.manual_seed(0)
    config = DcaConfig(**{**SMALL, **options})
    return Dca(config, NETWORK, num_classes=K, seed=1).double()


def batch(step: int = 0) -> dict[str, Domain]:
    g = torch.Generator().manual_seed(step)
    sketches = torch.randn(7, 3, SIDE, SIDE, dtype=torch.float64, generator=g)
    shapes = torch.randn(5, VIEWS, 3, SIDE, SIDE, dtype=torch.float64, generator=g)
    return {
        "source_images": Domain(sketches, torch.tensor(SKETCH_LABELS)),
        "source_shapes": Domain(shapes, torch.tensor(SHAPE_LABELS)),
    }


def slow_batch_hard(z: Tensor, labels: list[int], margin: float) -> float:
    rows, terms = z.tolist(), []
    for i, a in enumerate(rows):
        same = [math.dist(a, b) for j, b in enumerate(rows) if labels[j] == labels[i] and i != j]
        other = [math.dist(a, b) for j, b in enumerate(rows) if labels[j] != labels[i]]
        if same and other:
            terms.append(max(0.0, margin - (min(other) - max(same))))
    return sum(terms) / len(terms)


def linear_widths(module: nn.Module) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def test_default_widths_are_the_papers():
    config = DcaConfig()
    network = NetworkConfig(backbone="resnet50", **Dca.defaults["network"])
    with torch.device("meta"):
        method = Dca(config, network, num_classes=90, seed=0)
    metric = [(2048, 1024), (1024, 512), (512, 256), (256, 128)]
    assert linear_widths(method.sketch.metric) == metric
    assert linear_widths(method.shape.metric) == metric
    assert method.transformation is not None
    assert method.discriminator is not None
    assert linear_widths(method.transformation) == [(128, 64), (64, 32), (32, 64), (64, 128)]
    assert linear_widths(method.discriminator) == [(128, 64), (64, 1)]
    assert config.classes_per_batch * config.samples_per_class == 64


def test_networks_end_in_tanh_and_normalise_hidden_layers_only():
    kinds = [type(m).__name__ for m in MetricNetwork(8, (6, 5), 4)]
    assert kinds == ["Linear", "GlobalBatchNorm1d", "ReLU"] * 2 + ["Linear", "Tanh"]
    kinds = [type(m).__name__ for m in Transformation(8, (6, 5))]
    assert kinds == ["Linear", "ReLU"] * 2 + ["Linear", "Tanh"]


def test_the_last_layer_may_be_normalised_too():
    network = MetricNetwork(10, (8, 6), 4, last_norm=True)
    *_, linear, norm, tanh = network
    assert [type(m).__name__ for m in (linear, norm, tanh)] == [
        "Linear",
        "GlobalBatchNorm1d",
        "Tanh",
    ]
    assert linear.bias is None
    x = torch.randn(64, 10, generator=torch.Generator().manual_seed(0))
    before = torch.atanh(network(x).double())
    assert before.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(
        before.std(0, correction=0), torch.ones(4).double(), rtol=1e-2, atol=0
    )
    branches = make(metric_last_norm=True)
    assert [
        sum(isinstance(m, nn.Tanh) for m in b.metric) for b in (branches.sketch, branches.shape)
    ]
    assert type(branches.shape.metric[-2]).__name__ == "GlobalBatchNorm1d"


def test_views_are_pooled_between_trunk_and_metric_network():
    torch.manual_seed(0)
    branch = MetricBranch(NETWORK, (12,)).double().eval()
    shapes = batch()["source_shapes"].pixels
    with torch.no_grad():
        per_view = torch.stack([branch.trunk(shapes[:, v]) for v in range(VIEWS)])
        expected = branch.metric(per_view.max(0).values)
        torch.testing.assert_close(branch(shapes), expected)
        assert branch(shapes[:0]).shape == (0, 6)
        assert branch(shapes[:, 0]).shape == (5, 6)


def owner(name: str) -> str:
    """The update that a parameter or buffer belongs to."""
    return name.split(".")[0]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_each_update_changes_its_own_parameters_only(kind):
    method = make()
    strategy = DataParallel()
    model = strategy.prepare(method, OptimizerConfig(kind=kind, learning_rate=0.01)).train()
    for step in range(2):
        rows, now = batch(step), Now(step, 0.1)
        names = [u.name for u in method.updates(step)]
        assert names == ["sketch", "shape", "discriminator", "transformation"]  # algorithm 1
        for update in method.updates(step):
            before = {k: v.clone() for k, v in method.state_dict().items()}
            with strategy.only(update):
                losses = model(rows, now, update.name)
                strategy.backward(losses.total)
            strategy.step(factor=1.0)
            changed = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
            assert {owner(k) for k in changed} == {update.name}
            own = {n for n, _ in method.named_parameters() if owner(n) == update.name}
            assert len(changed & own) >= 0.9 * len(own)
            buffers = {n for n, _ in method.named_buffers() if owner(n) == update.name}
            assert buffers <= changed


def test_batch_statistics_move_once_a_step_and_never_for_networks_that_rest():
    method = make(pretrain_steps=1, pretrain_transformation_steps=2)
    strategy = DataParallel()
    model = strategy.prepare(method, OptimizerConfig()).train()
    expected = [1, 1, 1, 2]
    for step, count in enumerate(expected):
        before = {k: v.clone() for k, v in method.named_buffers()}
        for update in method.updates(step):
            with strategy.only(update):
                strategy.backward(model(batch(step), Now(step, 0.1), update.name).total)
            strategy.step(factor=1.0)
        for branch in (method.sketch, method.shape):
            counts = [int(b) for n, b in branch.named_buffers() if n.endswith("tracked")]
            assert counts == [count]
            assert branch.training
            assert branch.metric.training
        if step in (1, 2):
            assert all(torch.equal(b, before[n]) for n, b in method.named_buffers())


def test_phases_follow_the_step():
    method = make(pretrain_steps=2, pretrain_transformation_steps=3)
    found = [tuple(u.name for u in method.updates(step)) for step in range(7)]
    first, second = ("sketch", "shape"), ("discriminator", "transformation")
    assert found == [first] * 2 + [second] * 3 + [first + second] * 2
    groups = method.parameter_groups()
    assert {g for u in method.updates(6) for g in u.groups} == groups.keys()


def transform_terms(method: Dca, z_1: Tensor, z_2: Tensor) -> dict[str, float]:
    """L_SeP, L_G and L_CMD by plain loops."""
    with torch.no_grad():
        z_t = method.transformation(z_1)
        d = torch.sigmoid(method.discriminator(z_t))
    total = 0.0
    for k in set(SKETCH_LABELS) & set(SHAPE_LABELS):
        means = []
        for z, labels in ((z_t, SKETCH_LABELS), (z_2, SHAPE_LABELS)):
            rows = [row for row, y in zip(z.tolist(), labels, strict=True) if y == k]
            means.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
        total += math.dist(*means)
    return {
        "semantic": slow_batch_hard(z_t, SKETCH_LABELS, method.config.margin),
        "generator": sum(math.log(1 - p) for p in d.tolist()) / len(d),
        "discrepancy": total / len(set(SKETCH_LABELS) & set(SHAPE_LABELS)),
    }


def test_sums_are_as_printed():
    mean, total = (make(reduction=r).train() for r in ("mean", "sum"))
    rows, now = batch(), Now(0, 0.0)
    for update in ("sketch", "shape", "discriminator", "transformation"):
        first, second = mean(rows, now, update).terms, total(rows, now, update).terms
        classes = len(set(SKETCH_LABELS) & set(SHAPE_LABELS))
        factors = {"semantic": len(SKETCH_LABELS), "sketch_metric": len(SKETCH_LABELS)}
        # The only shape of class 3 has no positive.
        factors |= {"shape_metric": len(SHAPE_LABELS) - 1, "discrepancy": classes}
        for name, value in first.items():
            expected = value.item() * factors.get(name, 1)
            assert second[name].item() == pytest.approx(expected, rel=1e-10), name


def test_losses_are_the_papers_equations_on_the_step_s_own_embeddings():
    method, rows, now = make(discrepancy_weight=0.5).train(), batch(), Now(0, 0.0)
    with torch.no_grad():
        z_1, z_2 = (
            method.embed_branch(branch, rows[stream])
            for branch, stream in (
                (method.sketch, "source_images"),
                (method.shape, "source_shapes"),
            )
        )
    sketch, shape = method(rows, now, "sketch"), method(rows, now, "shape")
    expected = slow_batch_hard(z_1, SKETCH_LABELS, method.config.margin)
    assert sketch.total.item() == pytest.approx(expected, rel=1e-10)
    expected = slow_batch_hard(z_2, SHAPE_LABELS, method.config.margin)
    assert shape.total.item() == pytest.approx(expected, rel=1e-10)

    with torch.no_grad():
        assert method.transformation is not None
        assert method.discriminator is not None
        real = torch.sigmoid(method.discriminator(z_2)).tolist()
        made = torch.sigmoid(method.discriminator(method.transformation(z_1))).tolist()
    expected = -sum(map(math.log, real)) / 5 - sum(math.log(1 - p) for p in made) / 7  # eq. 10
    found = method(rows, now, "discriminator")
    assert found.total.item() == pytest.approx(expected, rel=1e-10)
    right = sum(p > 0.5 for p in real) / 5 + sum(p <= 0.5 for p in made) / 7
    assert found.health["discriminator_accuracy"].item() == pytest.approx(right / 2)

    terms = transform_terms(method, z_1, z_2)
    found = method(rows, now, "transformation")
    assert {k: v.item() for k, v in found.terms.items()} == pytest.approx(terms, rel=1e-10)
    expected = terms["semantic"] + terms["generator"] + 0.5 * terms["discrepancy"]  # eq. 12
    assert found.total.item() == pytest.approx(expected, rel=1e-10)
    assert "cross_modal_accuracy" in found.health
    assert not method(rows, Now(1, 0.0, logged=False), "transformation").health


def test_adaptation_does_not_reach_the_networks_and_takes_them_as_they_are_in_evaluation():
    method, rows = make(pretrain_transformation_steps=5).train(), batch()
    for _ in range(3):  # statistics unlike those of this batch
        method(batch(7), Now(9, 0.0), "sketch")
        method(batch(7), Now(9, 0.0), "shape")
    method.eval()
    with torch.no_grad():
        z_1 = method.sketch(rows["source_images"].pixels)
        z_2 = method.shape(rows["source_shapes"].pixels)
    found = method.train()(rows, Now(0, 0.0), "transformation")
    assert {k: v.item() for k, v in found.terms.items()} == pytest.approx(
        transform_terms(method, z_1, z_2), rel=1e-10
    )
    found.total.backward()
    reached = {owner(n) for n, p in method.named_parameters() if p.grad is not None}
    assert reached == {"transformation", "discriminator"}  # D is frozen by the loop


def test_variants_of_tables_1_and_2_build_only_what_they_use():
    none = {"semantic_weight": 0, "adversarial_weight": 0, "discrepancy_weight": 0}
    separate = make(**none, pretrain_transformation_steps=3)
    assert {owner(n) for n in separate.state_dict()} == {"sketch", "shape"}
    assert [u.name for u in separate.updates(0)] == ["sketch", "shape"]

    adversarial = make(semantic_weight=0)
    for update in adversarial.updates(0)[:3]:
        adversarial(batch(), Now(0, 0.0), update.name)
    found = adversarial(batch(), Now(0, 0.0), "transformation")
    assert found.terms.keys() == {"generator", "discrepancy"}

    means = make(semantic_weight=0, adversarial_weight=0)
    assert {owner(n) for n in means.state_dict()} == {"sketch", "shape", "transformation"}
    assert [u.name for u in means.updates(0)] == ["sketch", "shape", "transformation"]
    assert means(batch(), Now(0, 0.0), "transformation").terms.keys() == {"discrepancy"}


def test_generators_differ_in_form_only():
    saturating, other = make(), make(generator="nonsaturating")
    values = [m(batch(), Now(0, 0.0), "transformation") for m in (saturating, other)]
    a, b = (v.terms["generator"].item() for v in values)
    assert a < 0 < b


def test_retrieval_compares_transformed_sketches_with_shapes():
    method, rows = make().eval(), batch()
    with torch.no_grad():
        z_1 = method.sketch(rows["source_images"].pixels)
        assert method.transformation is not None
        expected = method.transformation(z_1)
        found = method.embed_queries(rows["source_images"].pixels)
        gallery = method.embed_gallery(rows["source_shapes"].pixels)
        torch.testing.assert_close(found, expected)
        assert not torch.allclose(found, z_1)
        torch.testing.assert_close(gallery, method.shape(rows["source_shapes"].pixels))
        assert found.shape[1] == gallery.shape[1] == 6
        separate = make(semantic_weight=0, adversarial_weight=0, discrepancy_weight=0).eval()
        torch.testing.assert_close(separate.embed_queries(rows["source_images"].pixels), z_1)


def test_saved_state_holds_no_embeddings_and_both_trunks_count_as_trunk():
    method = make()
    before = list(method.state_dict())
    method(batch(), Now(0, 0.0), "sketch")
    assert list(method.state_dict()) == before
    trunks = [n for n in method.parameter_groups() if n.endswith("trunk")]
    assert trunks == ["sketch.trunk", "shape.trunk"]
    assert not method.pretrained


@pytest.mark.parametrize(
    ("kind", "config", "off"),
    [
        (Siamese, SiameseConfig, {"cross_weight": 0}),
        (Dcml, DcmlConfig, {"correlation_weight": 0, "metric_hidden": (12,)}),
    ],
)
def test_baselines_add_up_and_lose_their_cross_modal_term(kind, config, off):
    torch.manual_seed(0)
    method = kind(config(), NETWORK, num_classes=K, seed=0).double()
    found = method(batch(), Now(0, 0.0))
    assert len(found.terms) == 3
    assert found.total.item() == pytest.approx(sum(v.item() for v in found.terms.values()))
    found.total.backward()
    assert all(p.grad is not None for p in method.parameters())
    method = kind(config(**off), NETWORK, num_classes=K, seed=0).double()
    assert len(method(batch(), Now(0, 0.0)).terms) == 2


def test_dcml_correlates_in_both_directions():
    torch.manual_seed(0)
    method = Dcml(DcmlConfig(metric_hidden=(12,)), NETWORK, num_classes=K, seed=0).double()
    rows = batch()
    with torch.no_grad():
        z_1 = method.embed_branch(method.sketch, rows["source_images"]).tolist()
        z_2 = method.embed_branch(method.shape, rows["source_shapes"]).tolist()
    expected = 0.0
    for a, ya, b, yb in (
        (z_1, SKETCH_LABELS, z_2, SHAPE_LABELS),
        (z_2, SHAPE_LABELS, z_1, SKETCH_LABELS),
    ):
        terms = []
        for point, label in zip(a, ya, strict=True):
            same = [math.dist(point, q) for q, y in zip(b, yb, strict=True) if y == label]
            other = [math.dist(point, q) for q, y in zip(b, yb, strict=True) if y != label]
            if same and other:
                terms.append(max(0.0, method.config.margin + max(same) - min(other)))
        expected += sum(terms) / len(terms)
    found = method(rows, Now(0, 0.0))
    assert found.terms["correlation"].item() == pytest.approx(expected, rel=1e-10)
