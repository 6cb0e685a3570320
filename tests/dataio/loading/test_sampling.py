import numpy as np
import pytest

from dataio.loading.class_balance import Balance, BalancedOrder
from dataio.records import DataError

SMALL = np.array([0] * 10 + [1] * 3 + [-1] * 6 + [4] * 7 + [2] * 1 + [3] * 20)
OTHER = np.array([5, 4, 3, 3, 2, 2, 1, 0, 0, -1] * 4)


def order(classes=3, samples=3, *, seed=1, **streams) -> BalancedOrder:
    return BalancedOrder(
        streams or {"small": SMALL, "other": OTHER}, balance=Balance(classes, samples), seed=seed
    )


def test_every_stream_has_the_same_p_classes_with_exactly_k_samples():
    for step in range(50):
        for name, class_ids in (("small", SMALL), ("other", OTHER)):
            positions, _ = order().draw(name, step)
            classes = class_ids[positions].reshape(3, 3)
            assert np.array_equal(classes[:, 0], order().classes(step))
            assert (classes == classes[:, :1]).all()
            assert len(set(classes[:, 0])) == 3
            for rows, label in zip(positions.reshape(3, 3), classes[:, 0], strict=True):
                if name == "other" or label != 2:  # class 2 has a single sample in "small"
                    assert len(set(rows)) == 3


def test_only_classes_of_all_streams_are_drawn():
    drawn = {c for step in range(100) for c in order().classes(step).tolist()}
    assert drawn == {0, 1, 2, 3, 4}  # 5 is in one stream only, -1 is no class


def test_a_small_class_repeats_its_samples_evenly():
    positions, _ = order(5, 8).draw("small", 0)
    counts = np.bincount(positions[SMALL[positions] == 1])
    assert sorted(counts[counts > 0]) == [2, 3, 3]
    assert (positions[SMALL[positions] == 2] == 26).sum() == 8


def test_no_occurrence_of_a_sample_shares_its_pass_with_another():
    seen = []
    for step in range(40):
        positions, passes = order(5, 8).draw("small", step)
        seen += zip(positions.tolist(), passes.tolist(), strict=True)
    assert len(set(seen)) == len(seen) == 40 * 40


def test_every_sample_gets_its_turn_equally_often_within_its_class():
    drawn = np.concatenate([order(5, 2, small=SMALL).draw("small", s)[0] for s in range(2000)])
    counts = np.bincount(drawn, minlength=len(SMALL))
    assert set(np.flatnonzero(counts)) == set(np.flatnonzero(SMALL >= 0))
    for c in range(5):
        members = np.flatnonzero(c == SMALL)
        share = counts[members] * len(members) / 4000
        assert np.abs(share - 1).max() < 0.3, c


def test_every_class_gets_its_turn_equally_often():
    drawn = np.concatenate([order(2).classes(step) for step in range(2000)])
    assert np.abs(np.bincount(drawn) / 800 - 1).max() < 0.15


def test_a_pure_function_of_its_arguments():
    first = order().draw("small", 10**6)[0]
    assert np.array_equal(first, order().draw("small", 10**6)[0])
    assert not np.array_equal(first, order().draw("small", 10**6 + 1)[0])
    assert not np.array_equal(first, order(seed=2).draw("small", 10**6)[0])
    twins = order(a=SMALL, b=SMALL)
    assert not np.array_equal(twins.draw("a", 0)[0], twins.draw("b", 0)[0])


def test_draws_are_the_same_on_every_machine():
    # Frozen: a change here changes every balanced training run ever started.
    assert order().classes(7).tolist() == [1, 0, 4]
    assert order().draw("small", 7)[0].tolist() == [10, 11, 12, 9, 1, 2, 25, 23, 19]


@pytest.mark.parametrize(
    ("classes", "samples", "message"),
    [
        (6, 3, "asks for 6 classes .* small, other have 5 labelled classes in common"),
        (0, 3, "classes >= 1"),
        (3, 0, "samples >= 1"),
    ],
)
def test_bad_arguments_are_refused(classes, samples, message):
    with pytest.raises(DataError, match=message):
        order(classes, samples)
