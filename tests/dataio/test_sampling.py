import numpy as np
import pytest

from dataio.records import DataError
from dataio.sampling import balanced_batch

CLASS_IDS = np.array([0] * 10 + [1] * 3 + [-1] * 6 + [4] * 7 + [2] * 1 + [3] * 20)


def draw(**changes) -> np.ndarray:
    options = {"classes_per_batch": 3, "samples_per_class": 3, "seed": 1, "stream_id": 0, "step": 0}
    return balanced_batch(CLASS_IDS, **{**options, **changes})


def test_exactly_p_classes_with_exactly_k_samples():
    for step in range(50):
        batch = draw(step=step)
        classes = CLASS_IDS[batch].reshape(3, 3)
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0])) == 3
        assert (classes >= 0).all()
        for rows, label in zip(batch.reshape(3, 3), classes[:, 0], strict=True):
            if label != 2:  # class 2 has a single sample
                assert len(set(rows)) == 3


def test_a_small_class_repeats_its_samples_evenly():
    batch = draw(classes_per_batch=5, samples_per_class=8)
    counts = np.bincount(batch[CLASS_IDS[batch] == 1])
    assert sorted(counts[counts > 0]) == [2, 3, 3]
    assert (batch[CLASS_IDS[batch] == 2] == 26).sum() == 8


def test_every_sample_gets_its_turn():
    seen = np.unique(np.concatenate([draw(step=step) for step in range(300)]))
    assert set(seen) == set(np.flatnonzero(CLASS_IDS >= 0))


def test_a_pure_function_of_its_arguments():
    assert np.array_equal(draw(step=10**6), draw(step=10**6))
    for change in ({"step": 1}, {"seed": 2}, {"stream_id": 1}):
        assert not np.array_equal(draw(), draw(**change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes_per_batch": 6}, "only 5 labelled classes"),
        ({"classes_per_batch": 0}, "at least 1"),
        ({"samples_per_class": 0}, "at least 1"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        draw(**change)
