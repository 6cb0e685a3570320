"""Every metric against the slow reference, the identities, and random-order expectations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evalsuite import Embeddings, EvaluationError, evaluate, evaluate_distances
from evalsuite.scoring.metrics import PER_QUERY
from tests.evalsuite import reference

NOT_VARIANTS = {"per_query", "pooled", "twenty"}


def random_problem(
    seed: int, *, values: int = 6, items: int = 9, queries: int = 7, classes: int = 4
):
    """Few distinct distances (ties), class sizes down to 1, classes only on one side."""
    rng = np.random.default_rng(seed)
    gallery = [f"c{c}" for c in rng.integers(0, classes, items)]
    labels = [*(f"c{c}" for c in rng.integers(0, classes + 1, queries)), gallery[0]]
    return rng.integers(0, values, (len(labels), items)).astype(float), labels, gallery


def assert_variants(found, wanted):
    names = set(wanted) - NOT_VARIANTS
    assert set(found) == names
    for name in names:
        assert found[name] == pytest.approx(wanted[name], abs=1e-12), name


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("ties", ["index", "expected"])
def test_all_variants_equal_the_slow_reference(seed, ties):
    items = (1, 2, 5, 9)[seed % 4]
    distances, labels, gallery = random_problem(seed, items=items)
    found = evaluate_distances(distances, labels, gallery, ties=ties)
    assert_variants(found.variants, reference.everything(distances, labels, gallery, ties))


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 9, 50])
@pytest.mark.parametrize("ties", ["index", "expected"])
def test_map_over_what_is_retrieved_equals_the_slow_reference(cut, ties):
    """The cut goes through classes and through groups of ties, and beyond the gallery."""
    for seed in range(4):
        distances, labels, gallery = random_problem(seed, values=4)
        found = evaluate_distances(distances, labels, gallery, ties=ties, map_cut=cut)
        wanted = reference.everything(distances, labels, gallery, ties, ap_cut=cut)
        assert_variants(found.variants, wanted)
        assert found.headline_variants["mAP"] == "mAP_retrieved"
        assert found.headline["mAP"] == pytest.approx(wanted["mAP_retrieved"], abs=1e-12)
        column = found.per_query.column("AP").to_pylist()
        own = {q: values["AP_retrieved"] for q, values in wanted["per_query"].items()}
        assert [value for value in column if value is not None] == pytest.approx(list(own.values()))
        by_class = evaluate_distances(
            distances, labels, gallery, ties=ties, map_cut=cut, average="class"
        )
        assert by_class.headline["mAP"] == pytest.approx(wanted["mAP_retrieved_class_mean"])


def test_a_cut_beyond_the_gallery_is_the_whole_list():
    distances, labels, gallery = random_problem(3)
    found = evaluate_distances(distances, labels, gallery, map_cut=len(gallery))
    assert found.headline["mAP"] == pytest.approx(found.variants["mAP"], abs=1e-12)


@pytest.mark.parametrize("cut", [0, -1, 2.0, "20", True])
def test_a_cut_that_is_no_number_is_refused(cut):
    distances, labels, gallery = random_problem(0)
    with pytest.raises(EvaluationError, match=r"map_cut=.*: give a number of 1 or more, or None"):
        evaluate_distances(distances, labels, gallery, map_cut=cut)


@pytest.mark.parametrize("seed", range(4))
def test_long_lists_and_both_curves_equal_the_slow_reference(seed):
    distances, labels, gallery = random_problem(seed, values=400, items=120, queries=25, classes=6)
    wanted = reference.everything(distances, labels, gallery)
    for protocol in ("mi3dor", "shrec"):
        found = evaluate_distances(distances, labels, gallery, protocol=protocol, query_block=4)
        assert_variants(found.variants, wanted)
        np.testing.assert_allclose(found.curves.pooled_recall, wanted["pooled"][0], atol=1e-12)
        np.testing.assert_allclose(found.curves.pooled_precision, wanted["pooled"][1], atol=1e-12)
        np.testing.assert_allclose(found.curves.interpolated, wanted["twenty"], atol=1e-12)
        shown = wanted["twenty"] if protocol == "shrec" else wanted["pooled"][1]
        np.testing.assert_allclose(found.to_json()["pr_precision"], shown, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_over_ties_equal_the_slow_reference(seed):
    distances, labels, gallery = random_problem(seed + 50, values=3)
    found = evaluate_distances(distances, labels, gallery)
    assert set(found.ties.headlines) == {"expected", "optimistic", "pessimistic"}
    for rule in ("optimistic", "pessimistic"):
        wanted = reference.everything(distances, labels, gallery, rule)
        for name, variant in found.headline_variants.items():
            assert found.ties.headlines[rule][name] == pytest.approx(wanted[variant], abs=1e-12)
    expected = reference.everything(distances, labels, gallery, "expected")
    given = found.ties.headlines["expected"]
    assert "AUC" not in given
    assert given["AUC_of_expected_curve"] == pytest.approx(expected["AUC_of_expected_curve"])
    assert given["mAP"] == pytest.approx(expected["mAP"], abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", ["index", "expected"])
def test_infinite_and_nan_distances_rank_last_and_nan_as_failures(seed, ties):
    distances, labels, gallery = random_problem(seed + 80)
    rng = np.random.default_rng(seed)
    distances[rng.random(distances.shape) < 0.2] = np.inf
    distances[rng.random(distances.shape) < 0.2] = np.nan
    distances[0] = np.nan
    distances[1] *= -1.0  # negative values and -0.0
    with pytest.raises(EvaluationError, match="row"):
        evaluate_distances(distances, labels, gallery)
    found = evaluate_distances(distances, labels, gallery, nan_policy="last", ties=ties)
    assert_variants(found.variants, reference.everything(distances, labels, gallery, ties))


def test_float64_and_integer_distances_keep_their_full_precision():
    near, far = 1.0, 1.0 + 1e-15
    found = evaluate_distances(np.array([[far, near]]), ["a"], ["b", "a"])
    assert found.headline["NN"] == 1.0
    big = 2**60
    found = evaluate_distances(np.array([[big + 1, big]]), ["a"], ["b", "a"])
    assert found.headline["NN"] == 1.0
    assert found.ties.pairs == 0


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ties", ["index", "expected"])
def test_embeddings_with_exact_ties_equal_the_slow_reference(seed, ties):
    rng = np.random.default_rng(seed)
    query_vectors, item_vectors = rng.integers(0, 3, (6, 2)), rng.integers(0, 3, (9, 2))
    labels = [f"c{c}" for c in rng.integers(0, 4, 5)] + ["c0"]
    gallery = [f"c{c}" for c in rng.integers(0, 3, 8)] + ["c0"]
    exact = [[math.dist(q, g) for g in item_vectors] for q in query_vectors]
    found = evaluate(
        Embeddings([f"q{i}" for i in range(6)], labels, query_vectors),
        Embeddings([f"g{i}" for i in range(9)], gallery, item_vectors),
        ties=ties,
        shards=3,
        query_block=2,
    )
    wanted = reference.everything(exact, labels, gallery, ties)
    assert_variants(found.variants, wanted)
    rows = found.per_query.to_pylist()
    for q, values in wanted["per_query"].items():
        assert rows[q]["AP"] == pytest.approx(values["AP"], abs=1e-12)
        assert rows[q]["DCG"] == pytest.approx(values["DCG_trunc_psb"], abs=1e-12)


def test_perfect_run_scores_exactly_one():
    sizes = {"a": 1, "b": 2, "c": 7, "d": 40}
    gallery = [name for name, n in sizes.items() for _ in range(n)]
    labels = sorted(sizes) * 2
    distances = np.array([[float(g != q) for g in gallery] for q in labels])
    v = evaluate_distances(distances, labels, gallery).variants
    for name in ("NN", "FT", "ST_2n_minus_1", "ST_2n", "DCG_trunc_psb", "DCG_full_psb", "mAP"):
        assert v[name] == 1.0
    assert v["ANMRR_tier"] == v["ANMRR_window"] == v["ANMRR_mpeg7"] == 0.0


def test_class_size_one():
    """FT, ST (2n-1) and truncated DCG are NN, AP is 1/rank, F and E have ceilings 2/21 and 2/33."""
    gallery = [f"c{i}" for i in range(50)]
    rng = np.random.default_rng(3)
    distances = rng.random((50, 50))
    rows = evaluate_distances(distances, gallery, gallery).per_query.to_pylist()
    for q, row in enumerate(rows):
        rank = 1 + int((distances[q] < distances[q, q]).sum())
        assert row["FT"] == row["ST"] == row["DCG"] == row["NN"] == float(rank == 1)
        assert row["AP"] == 1.0 / rank
    perfect = evaluate_distances(1.0 - np.eye(50), gallery, gallery)
    assert perfect.headline["F"] == pytest.approx(2 / 21)
    assert perfect.headline["E"] == pytest.approx(2 / 33)
    assert perfect.headline["AUC"] == 0.0
    assert perfect.variants["AUC_anchored"] == 1.0
    assert perfect.variants["DCG_trunc_rank2"] == 0.0
    assert any("AUC_anchored" in message for message in perfect.warnings)
    assert np.isnan(perfect.curves.interpolated).all()


def test_f_equals_ft_and_anmrr_window_is_at_most_tier_when_all_classes_have_twenty():
    gallery = [f"c{i // 20}" for i in range(100)]
    labels = [f"c{i % 5}" for i in range(30)]
    v = evaluate_distances(np.random.default_rng(0).random((30, 100)), labels, gallery).variants
    assert v["F_pooled"] == pytest.approx(v["FT"], abs=1e-14)
    assert v["ANMRR_window"] <= v["ANMRR_tier"]


def test_constant_embedding_expects_exactly_the_random_order():
    """All distances equal: expected values are the closed forms for a uniformly random order."""
    sizes = [1, 3, 10, 31, 60]
    gallery = [f"c{c}" for c, n in enumerate(sizes) for _ in range(n)]
    size = len(gallery)
    harmonic = sum(1 / r for r in range(1, size + 1))

    def ideal(n):
        return 1.0 + sum(1 / math.log2(r) for r in range(2, n + 1))

    for c, n in enumerate(sizes):
        found = evaluate_distances(np.zeros((2, size)), [f"c{c}"] * 2, gallery, ties="expected")
        v = found.variants
        for name in ("NN", "FT", "DCG_trunc_psb", "DCG_trunc_log2p1"):
            assert v[name] == pytest.approx(n / size, abs=1e-12)
        assert v["ANMRR_tier"] == pytest.approx(1 - n / size, abs=1e-12)
        assert v["DCG_full_psb"] == pytest.approx(n / size * ideal(size) / ideal(n), abs=1e-12)
        wanted = (harmonic + (n - 1) * (size - harmonic) / (size - 1)) / size
        assert v["mAP"] == pytest.approx(wanted, abs=1e-11)
        assert found.ties.share == 1.0
        assert any("tie_report" in message for message in found.warnings)


def test_largest_class_counts_even_if_nobody_asks_for_it():
    gallery = ["a", "b", *["big"] * 30]
    distances = np.arange(64.0).reshape(2, 32)[:, ::-1]
    found = evaluate_distances(distances, ["a", "b"], gallery)
    assert found.n_max == 30
    assert_variants(found.variants, reference.everything(distances, ["a", "b"], gallery))


def test_protocol_and_options_choose_the_headline():
    distances, labels, gallery = random_problem(5, values=40, items=30, queries=20)
    mi3dor = evaluate_distances(distances, labels, gallery)
    shrec = evaluate_distances(distances, labels, gallery, protocol="shrec")
    assert mi3dor.variants == shrec.variants
    assert mi3dor.headline["ST"] == mi3dor.variants["ST_2n_minus_1"]
    assert mi3dor.headline["DCG"] == mi3dor.variants["DCG_trunc_psb"]
    assert shrec.headline["ST"] == mi3dor.variants["ST_2n"]
    assert shrec.headline["DCG"] == mi3dor.variants["DCG_full_psb"]
    assert mi3dor.headline["F"] == shrec.headline["F"] == mi3dor.variants["F_pooled"]
    chosen = evaluate_distances(
        distances,
        labels,
        gallery,
        dcg="trunc_rank2",
        anmrr="mpeg7",
        f_average="class",
        average="class",
    )
    assert chosen.headline["DCG"] == mi3dor.variants["DCG_trunc_rank2_class_mean"]
    assert chosen.headline["ANMRR"] == mi3dor.variants["ANMRR_mpeg7_class_mean"]
    assert chosen.headline["F"] == mi3dor.variants["F_class"]
    assert chosen.headline["mAP"] == mi3dor.variants["mAP_class_mean"]
    assert chosen.headline["AUC"] == mi3dor.variants["AUC"]


def test_every_value_is_a_proportion():
    for seed in range(20):
        distances, labels, gallery = random_problem(seed + 200, items=12)
        found = evaluate_distances(distances, labels, gallery)
        assert set(found.variants) >= set(PER_QUERY) - {"AP", "AP_retrieved", "F_query"}
        for name, value in found.variants.items():
            assert -1e-12 <= value <= 1 + 1e-12, name
