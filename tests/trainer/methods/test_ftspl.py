"""FTSPL: whole rounds and steps against plain loops, for any number of ranks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.spawn import run_processes
from trainer.building import build_method
from trainer.config import parse_config
from trainer.engines.data_parallel import DataParallel
from trainer.losses import cross_entropy, shift_table, spread_table, transferable_cross_entropy
from trainer.methods.base import Domain, Now
from trainer.sections import OptimizerConfig
from trainer.synchronised.clustering import kmeans

K, V, SIDE, WIDTH = 4, 2, 16, 8
SOURCES, TARGETS, BATCH = 21, 33, 6
# Source rows, target rows of the walk and of a batch, by rank.
SPLITS = {
    1: ([21], [33], [6], [6]),
    2: ([21, 0], [13, 20], [5, 1], [0, 6]),
    3: ([2, 9, 10], [20, 0, 13], [3, 0, 3], [1, 5, 0]),
    4: ([6, 0, 10, 5], [1, 12, 20, 0], [2, 2, 1, 1], [4, 0, 0, 2]),
}
# The rows of the paper's tables III-V.
TABLES = {
    "III pseudo-2d-classifier": {"spl": False},
    "III pseudo-nearest-centroid": {"spl": False, "pseudo": "centroid"},
    "IV idca": {"spl": False, "covariance": False},
    "IV icav": {"spl": False, "shift": False},
    "IV spl+idca+icav": {},
    "V spl-only": {"ft": False},
}


def make(seed: int = 5, **options):
    tree = {
        "method": {"name": "ftspl", "statistics": "round", **options},
        "network": {"tiny_width": 8, "embedding": WIDTH, "image_size": SIDE},
        "training": {"precision": "float64", "seed": seed},
    }
    return build_method(parse_config(tree), num_classes=K)


def training_set() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Images of classes 0-2 (3 is absent) and shapes without labels, with one repeated shape."""
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(SOURCES) % 3
    styles = torch.randn(K, 3, SIDE, SIDE, dtype=torch.float64, generator=g)
    images = styles[labels] + torch.randn(SOURCES, 3, SIDE, SIDE, dtype=torch.float64, generator=g)
    noise = torch.randn(TARGETS, V, 3, SIDE, SIDE, dtype=torch.float64, generator=g)
    shapes = styles[torch.arange(TARGETS) % K][:, None] + noise
    return {
        "source_images": (images, labels),
        "target_shapes": (shapes, torch.full((TARGETS,), -1)),
    }


def walk_of(rank: int, world_size: int):
    """This rank's samples in two parts, one of which may be empty."""

    def walk(stream: str):
        pixels, labels = training_set()[stream]
        counts = SPLITS[world_size][stream == "target_shapes"]
        start = sum(counts[:rank])
        mine = torch.arange(start, start + counts[rank])
        for part in (mine[:5], mine[5:]):
            yield Domain(pixels[part], labels[part], samples=part, size=len(pixels))

    return walk


def batch_of(step: int, rank: int, world_size: int) -> dict[str, Domain]:
    batch = {}
    for i, (stream, (pixels, labels)) in enumerate(training_set().items()):
        counts = SPLITS[world_size][2 + i]
        start = sum(counts[:rank])
        samples = (torch.arange(BATCH) * 3 + step * 5) % len(pixels)
        mine = samples[start : start + counts[rank]]
        batch[stream] = Domain(pixels[mine], labels[mine], start, samples=mine, size=len(pixels))
    return batch


def softmax(values):
    top = max(values)
    return [math.exp(v - top) / sum(math.exp(u - top) for u in values) for v in values]


def slow_round(method, number: int, total: int):
    """Eq. 5-10, selection and moments with plain loops; embeddings are the method's own."""
    from scipy.optimize import linear_sum_assignment

    from tests.trainer.synchronised.test_clustering import slow_kmeans, slow_select

    (images, y_s), (shapes, _) = training_set().values()
    with torch.no_grad():
        f_s, f_t = method.embed_queries(images), method.embed_gallery(shapes)
        p_classifier = method.network.classify(f_t).softmax(1).tolist()
    f_s, f_t, y_s = f_s.numpy(), f_t.numpy(), y_s.tolist()
    classes = sorted(set(y_s))
    raw_s = [np.mean([f for f, y in zip(f_s, y_s, strict=True) if y == k], 0) for k in classes]
    raw_t = f_t
    if method.config.standardise != "none":
        f_s, f_t = f_s - f_s.mean(0), f_t - f_t.mean(0)
    if method.config.standardise == "zscore":
        f_s, f_t = f_s / f_s.std(0), f_t / f_t.std(0)
    if method.config.unit_length:
        f_s, f_t = (np.array([row / np.linalg.norm(row) for row in f]) for f in (f_s, f_t))
    mu_s = [np.mean([f for f, y in zip(f_s, y_s, strict=True) if y == k], 0) for k in classes]
    clusters = np.array(slow_kmeans(f_t.tolist(), mu_s, 100))
    costs = [[math.dist(c, m) for c in clusters] for m in mu_s]
    mu_t = clusters[linear_sum_assignment(costs)[1]]
    labels, certainty = [], []
    for i, f in enumerate(f_t):
        p1 = softmax([-math.dist(f, m) for m in mu_s])
        p2 = softmax([-math.dist(f, m) for m in mu_t])
        p = [max(a, b) for a, b in zip(p1, p2, strict=True)]
        p = {"full": p, "centroid": p1, "classifier": p_classifier[i]}[method.pseudo]
        labels.append((range(K) if method.pseudo == "classifier" else classes)[p.index(max(p))])
        certainty.append(max(p))
    share = (number + 1, total) if method.config.spl else (1, 1)
    chosen = slow_select(certainty, labels, range(TARGETS), TARGETS, share)
    shift, covariance = np.zeros((K, WIDTH)), np.zeros((K, WIDTH, WIDTH))
    for k in range(K):
        xs = [f for f, y in zip(raw_t, chosen, strict=True) if y == k]
        if xs:
            mean = np.mean(xs, 0)
            covariance[k] = np.mean([np.outer(x - mean, x - mean) for x in xs], 0)
            if k in classes:
                shift[k] = mean - raw_s[classes.index(k)]
    return labels, chosen, shift, covariance


@pytest.mark.parametrize(
    "options",
    [
        *TABLES.values(),
        {"pseudo": "classifier"},
        {"standardise": "center"},
        {"standardise": "zscore", "unit_length": True},
    ],
)
def test_a_round_equals_plain_loops(options):
    method = make(**options).eval()
    for number, total in ((0, 7), (3, 7), (6, 7)):
        health = method.start_round(number, total, walk_of(0, 1))
        labels, chosen, shift, covariance = slow_round(method, number, total)
        assert method.assigned.labels.tolist() == labels
        assert method.selected.labels.tolist() == chosen
        for buffer, expected in ((method.shift, shift), (method.covariance, covariance)):
            if buffer is not None:
                np.testing.assert_allclose(buffer, expected, rtol=1e-9, atol=1e-12)
        fraction = sum(k >= 0 for k in chosen) / TARGETS
        assert float(health["selected_fraction"]) == pytest.approx(fraction)
        assert float(health["round_label_coverage"]) == len(set(labels)) / K
    assert chosen == labels, "the last round takes all samples"
    assert float(health["round_label_agreement"]) == 1.0
    assert (method.shift is None) == (options.get("ft") is False or "shift" in options)
    assert (method.covariance is None) == (options.get("ft") is False or "covariance" in options)


def test_clusters_count_for_the_class_they_are_matched_to(monkeypatch):
    """In whatever order K-means leaves its clusters, labels are those of the matched classes."""
    method = make().eval()
    method.start_round(2, 5, walk_of(0, 1))
    expected = method.selected.labels.clone()
    turned = lambda *args, **options: kmeans(*args, **options).roll(1, 0)  # noqa: E731
    monkeypatch.setattr("trainer.methods.ftspl.kmeans", turned)
    method.start_round(2, 5, walk_of(0, 1))
    assert torch.equal(method.selected.labels, expected)


def test_agreement_is_the_share_of_samples_that_keep_their_label():
    method, other = make().eval(), make(seed=6).eval()
    method.start_round(0, 4, walk_of(0, 1))
    before = method.assigned.labels.clone()
    method.network.load_state_dict(other.network.state_dict())
    health = method.start_round(1, 4, walk_of(0, 1))
    share = (before == method.assigned.labels).double().mean().item()
    assert 0 < share < 1
    assert float(health["round_label_agreement"]) == pytest.approx(share)


def recorded_collectives(sizes: list[tuple[str, int]]):
    """Replace the process group's calls by ones that note how many numbers each rank gets."""
    originals = {name: getattr(dist, name) for name in ("all_gather", "all_reduce")}

    def all_gather(parts, part, **options):
        sizes.append(("gather", sum(p.numel() for p in parts)))
        return originals["all_gather"](parts, part, **options)

    def all_reduce(x, *args, **options):
        sizes.append(("reduce", x.numel()))
        return originals["all_reduce"](x, *args, **options)

    dist.all_gather, dist.all_reduce = all_gather, all_reduce
    return originals


def round_and_steps(rank: int, world_size: int, options: dict):
    """Health, losses, gradients of the last step and state after a round and two steps."""
    method, strategy = make(**options), DataParallel()
    model = strategy.prepare(method, OptimizerConfig(learning_rate=0.05))
    method.eval()
    sizes: list[tuple[str, int]] = []
    originals = recorded_collectives(sizes)
    try:
        seen = [method.start_round(2, 5, walk_of(rank, world_size))]
    finally:
        for name, function in originals.items():
            setattr(dist, name, function)
    gradients = {}
    for step in range(2):
        method.train()
        result = model(batch_of(step, rank, world_size), Now(step, 0.3 + step / 5))
        seen.append({"total": result.total, **result.terms, **result.health})
        strategy.backward(result.total)
        gradients = {n: p.grad.numpy().copy() for n, p in method.named_parameters()}
        strategy.step(factor=1.0)
    seen.append(method.eval().start_round(3, 5, walk_of(rank, world_size)))
    state = {n: v.double().numpy() for n, v in method.state_dict().items()}
    return [{k: v.item() for k, v in part.items()} for part in seen], gradients, state, sizes


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"spl": False, "target_ce": 0.5, "strength": "ramp"},
        {"ft": False},
        {"statistics": "batch", "target_centroid": "selected"},
        {"statistics": "running", "theta": 0.4},
        {"target_centroid": "cluster"},
    ],
)
def test_rounds_and_steps_are_those_of_one_process(options, world_size):
    seen, gradients, state, _ = round_and_steps(0, 1, options)
    assert 0 < seen[1]["selected_in_batch"] <= 1
    for other in run_processes(round_and_steps, world_size, options):
        for mine, theirs in zip(seen, other[0], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-9)
        for mine, theirs in ((gradients, other[1]), (state, other[2])):
            assert mine.keys() == theirs.keys()
            for name, value in mine.items():
                scale = max(1e-6, np.abs(value).max())
                assert np.abs(theirs[name] - value).max() < 1e-9 * scale, name


def test_no_rank_receives_the_embeddings_of_the_others():
    """Gathered are three numbers per sample at most; sums do not grow with the samples."""
    for *_, sizes in run_processes(round_and_steps, 2, {}):
        gathered = [size for kind, size in sizes if kind == "gather"]
        reduced = [size for kind, size in sizes if kind == "reduce"]
        # Ranks are padded to the largest part: 20 of 33 samples here.
        assert max(gathered) == 3 * 2 * max(SPLITS[2][1])
        assert max(gathered) < TARGETS * WIDTH
        assert max(reduced) == K * WIDTH * WIDTH
        assert sorted(reduced)[-2] == K * (WIDTH + 1)


def test_only_selected_rows_enter_the_target_loss():
    method = make().eval()
    method.start_round(1, 5, walk_of(0, 1))
    batch = batch_of(0, 0, 1)
    result = method(batch, Now(0, 0.1))
    with torch.no_grad():
        logits = method.network.classify(method.embed_gallery(batch["target_shapes"].pixels))
    losses = [
        -math.log(softmax(row)[y])
        for row, y in zip(
            logits.tolist(),
            method.selected.labels[batch["target_shapes"].samples].tolist(),
            strict=True,
        )
        if y >= 0
    ]
    assert 0 < len(losses) < BATCH
    expected = sum(losses) / len(losses)
    assert result.terms["target_classification"].item() == pytest.approx(expected, rel=1e-10)
    assert result.health["selected_in_batch"].item() == pytest.approx(len(losses) / BATCH)
    total = result.terms["classification"] + result.terms["target_classification"]
    assert result.total.item() == pytest.approx(total.item(), rel=1e-12)


def test_the_source_loss_is_that_of_equation_4_with_the_stored_statistics():
    method = make(strength="ramp", strength_factor=0.5, shift_factor=0.7).eval()
    method.start_round(4, 5, walk_of(0, 1))
    batch = batch_of(0, 0, 1)
    result = method(batch, Now(3, 0.25))
    source = batch["source_images"]
    with torch.no_grad():
        logits = method.network.classify(method.embed_queries(source.pixels))
    weight = method.network.classifier.weight
    table = shift_table(weight, 0.7 * method.shift) + 0.0625 * spread_table(
        weight, method.covariance
    )
    expected = cross_entropy(logits + table[source.labels], source.labels)
    assert result.terms["classification"].item() == pytest.approx(expected.item(), rel=1e-10)
    assert table.abs().max() > 1e-6


def slow_statistics(method, batch, theta: float | None, before: dict[int, tuple]):
    """Δμ ``[K, D]`` and Σ ``[K, D, D]`` of a batch with plain loops, averaged with those before.

    ``before`` holds (μ_s, μ_t, Σ) by class and is brought up to date."""
    source, target = batch["source_images"], batch["target_shapes"]
    with torch.no_grad():
        f_s = method.embed_queries(source.pixels).numpy()
        f_t = method.embed_gallery(target.pixels).numpy()
    chosen = method.selected.labels[target.samples].numpy()
    shift, covariance = np.zeros((K, WIDTH)), np.zeros((K, WIDTH, WIDTH))
    for k in range(K):
        rows_s, rows_t = f_s[source.labels.numpy() == k], f_t[chosen == k]
        new = [rows_s.mean(0) if len(rows_s) else None, None, None]
        if len(rows_t):
            new[1:] = rows_t.mean(0), np.cov(rows_t.T, bias=True)
        old = before.get(k, (None, None, None))
        if theta is not None:
            new = [
                o if n is None else n if o is None else theta * n + (1 - theta) * o
                for n, o in zip(new, old, strict=True)
            ]
        before[k] = tuple(new)
        if new[0] is not None and new[1] is not None:
            shift[k] = new[1] - new[0]
        if new[2] is not None:
            covariance[k] = new[2]
    return torch.from_numpy(shift), torch.from_numpy(covariance)


@pytest.mark.parametrize(("statistics", "theta"), [("batch", None), ("running", 0.3)])
def test_live_statistics_are_those_of_the_batch_or_their_average(statistics, theta):
    options = {"spl": False, "pseudo": "centroid", "strength_factor": 0.5}
    method = make(statistics=statistics, **options).eval()
    method.start_round(4, 5, walk_of(0, 1))
    before: dict[int, tuple] = {}
    sizes = []
    for step in range(3):
        batch = batch_of(step, 0, 1)
        shift, covariance = slow_statistics(method, batch, theta, before)
        source = batch["source_images"]
        with torch.no_grad():
            logits = method.network.classify(method.embed_queries(source.pixels))
            expected = transferable_cross_entropy(
                logits,
                source.labels,
                method.network.classifier.weight,
                shift=shift,
                covariance=covariance,
                strength=0.5,
            )
        got = method(batch, Now(step, 0.25)).terms["classification"]
        assert got.item() == pytest.approx(expected.item(), rel=1e-6)
        sizes.append((shift.abs().max().item(), covariance.abs().max().item()))
    assert max(shift for shift, _ in sizes) > 1e-3  # a batch may hold no class of both domains
    assert min(covariance for _, covariance in sizes) > 1e-6


def target_gradient(**options) -> float:
    method = make(**options, spl=False, pseudo="centroid").eval()
    method.start_round(4, 5, walk_of(0, 1))
    batch = batch_of(0, 0, 1)
    pixels = batch["target_shapes"].pixels.clone().requires_grad_()
    batch["target_shapes"] = replace(batch["target_shapes"], pixels=pixels)
    method(batch, Now(0, 0.25)).total.backward()
    return 0.0 if pixels.grad is None else pixels.grad.abs().max().item()


@pytest.mark.parametrize("part", [{}, {"covariance": False}, {"shift": False}])
def test_only_live_statistics_move_the_target(part):
    """Without target_ce the alignment of a round's constants trains the source alone."""
    assert target_gradient(statistics="round", **part) == 0
    for statistics in ("batch", "running"):
        assert target_gradient(statistics=statistics, **part) > 1e-8
    assert target_gradient(statistics="batch", ft=False) == 0


def test_a_target_that_nothing_is_learned_from_is_not_embedded(monkeypatch):
    method = make(spl=False)
    seen: list[bool] = []
    embed = method.embed
    monkeypatch.setattr(method, "embed", lambda x, y: seen.append(y is not None) or embed(x, y))
    for now in (Now(0, 0.1, logged=False), Now(1, 0.1, logged=True)):
        method(batch_of(0, 0, 1), now)
    assert seen == [False, True]
    for options in ({}, {"spl": False, "statistics": "running"}):
        assert make(**options)._reads_target(Now(0, 0.1, logged=False))


def test_the_centroid_of_a_cluster_is_the_mean_of_its_shapes():
    """The matched clusters (eq. 7) cover all shapes; the selected ones are a part of them."""
    by_cluster = make(target_centroid="cluster").eval()
    by_cluster.start_round(0, 5, walk_of(0, 1))
    (images, y_s), (shapes, _) = training_set().values()
    with torch.no_grad():
        f_s, f_t = by_cluster.embed_queries(images), by_cluster.embed_gallery(shapes)
    mu_s = torch.stack([f_s[y_s == k].mean(0) for k in range(3)])
    from scipy.optimize import linear_sum_assignment

    from tests.trainer.synchronised.test_clustering import slow_kmeans

    clusters = torch.tensor(slow_kmeans(f_t.tolist(), mu_s.tolist(), 100), dtype=torch.float64)
    matched = clusters[linear_sum_assignment(torch.cdist(mu_s, clusters))[1]]
    np.testing.assert_allclose(by_cluster.shift[:3], matched - mu_s, atol=1e-6)
    selected = make().eval()
    selected.start_round(0, 5, walk_of(0, 1))
    assert (selected.shift - by_cluster.shift).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options", [{"statistics": "batch"}, {"spl": False}, {"pseudo": "centroid"}]
)
def test_a_cluster_without_clusters_is_refused(options):
    with pytest.raises(ValueError, match=r"target_centroid: cluster"):
        make(target_centroid="cluster", **options)


def test_before_the_first_round_it_is_source_cross_entropy():
    method = make().eval()
    batch = batch_of(0, 0, 1)
    result = method(batch, Now(0, 0.0))
    result.total.backward()
    logits = method.network.classify(method.embed_queries(batch["source_images"].pixels))
    plain = cross_entropy(logits, batch["source_images"].labels)
    assert result.total.item() == pytest.approx(plain.item(), rel=1e-12)
    assert all(p.grad is not None for p in method.parameters())


def test_warm_up_rounds_leave_everything_as_it_is_and_do_not_count():
    method, other = make(warmup_rounds=2).eval(), make().eval()
    for number in (0, 1):
        assert method.start_round(number, 5, walk_of(0, 1)) == {}
    assert len(method.selected.labels) == 0
    method.start_round(2, 5, walk_of(0, 1))
    other.start_round(0, 3, walk_of(0, 1))
    for name, value in other.state_dict().items():
        assert torch.equal(method.state_dict()[name], value), name


def test_warm_up_that_leaves_no_round_is_refused():
    with pytest.raises(ValueError, match=r"warmup_rounds: 3 of 3 rounds leave none"):
        make(rounds=3, warmup_rounds=3)


def test_switches_of_the_tables():
    assert make().rounds(400) == 20
    assert make(rounds=10).rounds(4) == 4
    assert make(ft=False, spl=False).rounds(400) == 0
    assert make(ft=False).rounds(400) == 20
    weights = {name: make(**options).target_ce for name, options in TABLES.items()}
    assert weights == {
        name: 0.0 if options.get("spl") is False else 1.0 for name, options in TABLES.items()
    }
    assert make(spl=False, target_ce=0.5).target_ce == 0.5
    result = make(spl=False)(batch_of(0, 0, 1), Now(0, 0.1))
    assert list(result.terms) == ["classification"]


def test_a_saved_state_continues_as_if_nothing_had_happened():
    method, restored = make(), make(seed=8)
    method.eval().start_round(2, 5, walk_of(0, 1))
    restored.load_state_dict(method.state_dict())
    results = [m.train()(batch_of(1, 0, 1), Now(1, 0.3)) for m in (method, restored)]
    assert torch.equal(results[0].total, results[1].total)
    assert results[0].terms["target_classification"] > 0
    rounds = [m.eval().start_round(3, 5, walk_of(0, 1)) for m in (method, restored)]
    assert {k: float(v) for k, v in rounds[0].items()} == {
        k: float(v) for k, v in rounds[1].items()
    }
    for name, value in method.state_dict().items():
        assert torch.equal(value, restored.state_dict()[name]), name
