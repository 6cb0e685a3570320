"""Known numbers of the benchmarks: perfect runs and random orders from the class sizes alone."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from evalsuite import Evaluation, evaluate_distances

MI3DOR = [250, 250, 31, 250, 45, 250, 250, 250, 250, 109, 178, 250, 143, 123, 239, 62, 250, 72, 96,
          250, 250]  # fmt: skip
MI3DOR_2 = [20] * 40
SHREC13 = [size for size, count in {
    4: 12, 5: 11, 6: 11, 7: 11, 8: 4, 9: 6, 10: 2, 11: 3, 12: 4, 13: 2, 14: 1, 15: 3, 16: 1, 17: 4,
    20: 1, 21: 1, 22: 1, 25: 1, 28: 1, 29: 1, 31: 1, 32: 1, 33: 2, 35: 1, 49: 1, 51: 1, 63: 1,
    184: 1,
}.items() for _ in range(count)]  # fmt: skip
SIZES = {"mi3dor": MI3DOR, "mi3dor-2": MI3DOR_2, "shrec13": SHREC13}


@lru_cache
def run(name: str, *, constant: bool) -> Evaluation:
    """One query per class: queries are balanced, so more of them change nothing."""
    sizes = SIZES[name]
    classes = [f"c{c}" for c in range(len(sizes))]
    gallery = np.repeat(classes, sizes)
    distances = np.zeros((len(classes), len(gallery)))
    if not constant:
        distances += np.asarray(classes)[:, None] != gallery
    return evaluate_distances(
        distances,
        classes,
        gallery.tolist(),
        protocol="shrec" if name == "shrec13" else "mi3dor",
        ties="expected" if constant else "index",
    )


def test_class_sizes_add_up_to_the_galleries():
    assert (len(MI3DOR), sum(MI3DOR)) == (21, 3848)
    assert (len(SHREC13), sum(SHREC13)) == (90, 1258)


@pytest.mark.parametrize(
    ("name", "f", "e", "auc"),
    [
        ("mi3dor", 0.1968, 0.3753, 0.8872),
        ("mi3dor-2", 1.0, 0.7692, 0.95),
        ("shrec13", 0.5899, 0.4629, 0.6364),
    ],
)
def test_perfect_run(name, f, e, auc):
    headline = run(name, constant=False).headline
    assert headline["F"] == pytest.approx(f, abs=5e-5)
    assert headline["E"] == pytest.approx(e, abs=5e-5)
    assert headline["AUC"] == pytest.approx(auc, abs=5e-5)
    for metric in ("NN", "FT", "ST", "DCG", "mAP"):
        assert headline[metric] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "ft", "dcg", "mean_precision", "anmrr"),
    [
        ("mi3dor", 0.0476, 0.0476, 0.0496, 0.9524),
        ("mi3dor-2", 0.0250, 0.0250, 0.0326, 0.9750),
        ("shrec13", 0.0111, 0.2313, 0.0164, 0.9889),
    ],
)
def test_random_order(name, ft, dcg, mean_precision, anmrr):
    """The expectation over random orders is the expected score of a constant embedding."""
    headline = run(name, constant=True).headline
    assert headline["FT"] == pytest.approx(ft, abs=6e-5)
    assert headline["NN"] == pytest.approx(ft, abs=6e-5)
    assert headline["DCG"] == pytest.approx(dcg, abs=6e-5)
    assert headline["mAP"] == pytest.approx(mean_precision, abs=6e-5)
    assert headline["ANMRR"] == pytest.approx(anmrr, abs=6e-5)


def test_random_order_by_simulation():
    """Real random orders average to the closed forms."""
    rng = np.random.default_rng(0)
    classes = [f"c{c}" for c in range(40)]
    gallery = np.repeat(classes, 20).tolist()
    headline = evaluate_distances(rng.random((2000, 800)), classes * 50, gallery).headline
    assert headline["FT"] == pytest.approx(0.0250, abs=0.003)
    assert headline["mAP"] == pytest.approx(0.0326, abs=0.002)
    assert headline["ANMRR"] == pytest.approx(0.9750, abs=0.003)


def test_a_constant_embedding_in_class_order_flatters_the_first_class():
    found = evaluate_distances(np.zeros((2, 6)), ["a", "b"], ["a", "a", "a", "b", "b", "b"])
    assert found.per_class[0]["mAP"] == 1.0
    assert found.ties.headlines["pessimistic"]["mAP"] < found.headline["mAP"]
    assert found.warnings


def test_block_order_gives_the_printed_shrec13_row():
    """A query-independent order of class blocks: NN .011, FT .016, ST .028, E .015, DCG .2355."""
    rng = np.random.default_rng(1)
    classes = np.array([f"c{c}" for c in range(90)])
    gallery = np.repeat(classes, SHREC13)
    totals = []
    for _ in range(40):
        place = dict(zip(classes, rng.permutation(90), strict=True))
        order = np.array([place[label] for label in gallery], dtype=float)
        order += np.arange(len(gallery)) * 1e-6
        found = evaluate_distances(
            np.tile(order, (90, 1)), classes.tolist(), gallery.tolist(), protocol="shrec"
        )
        totals.append([found.headline[m] for m in ("NN", "FT", "ST", "E", "DCG", "mAP")])
    wanted = np.array([0.011, 0.016, 0.028, 0.015, 0.2355, 0.038])
    spread = np.array([0.001, 0.002, 0.004, 0.002, 0.003, 0.003])
    assert (np.abs(np.mean(totals, axis=0) - wanted) < spread).all()
