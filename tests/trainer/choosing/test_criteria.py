"""Criteria against plain loops and against cases worked out by hand; they have no gradient."""

from __future__ import annotations

import math

import pytest
import torch

from trainer.choosing import criteria
from trainer.choosing.criteria import (
    CRITERIA,
    UNSUPERVISED,
    information_maximisation,
    mean_entropy,
    soft_neighbourhood_density,
    source_accuracy,
)


def logits_of(rows: int, classes: int = 5, *, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, classes, dtype=torch.float64, generator=generator)


def slow_softmax(row: list[float]) -> list[float]:
    e = [math.exp(v - max(row)) for v in row]
    return [v / sum(e) for v in e]


def slow_entropy_of(p: list[float]) -> float:
    return -sum(v * math.log(v) for v in p if v > 0)


def slow_entropy(logits: torch.Tensor) -> float:
    return sum(slow_entropy_of(slow_softmax(row)) for row in logits.tolist()) / len(logits)


def slow_im(logits: torch.Tensor) -> float:
    rows = [slow_softmax(row) for row in logits.tolist()]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return slow_entropy_of(mean) - slow_entropy(logits)


def slow_snd(logits: torch.Tensor, temperature: float = 0.05) -> float:
    rows = [slow_softmax(row) for row in logits.tolist()]
    rows = [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in rows]
    total = 0.0
    for i, a in enumerate(rows):
        others = [
            sum(u * v for u, v in zip(a, b, strict=True)) / temperature
            for j, b in enumerate(rows)
            if j != i
        ]
        total += slow_entropy_of(slow_softmax(others))
    return total / len(rows)


SLOW = {"entropy": slow_entropy, "im": slow_im, "snd": slow_snd}


@pytest.mark.parametrize("name", UNSUPERVISED)
@pytest.mark.parametrize("rows", [2, 3, 17])
@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 200.0])
def test_values_are_those_of_plain_loops(name, rows, scale):
    logits = logits_of(rows, scale=scale, seed=rows)
    expected = SLOW[name](logits)
    assert UNSUPERVISED[name](logits) == pytest.approx(expected, rel=1e-10, abs=1e-10)
    single = UNSUPERVISED[name](logits.float())  # computed in float64 from float32 logits
    assert single == pytest.approx(SLOW[name](logits.float().double()), rel=1e-10, abs=1e-10)


def test_worked_out_by_hand():
    sure = torch.full((4, 4), -1000.0).fill_diagonal_(0.0)  # each sample a class of its own
    flat, one_class = torch.zeros(4, 4), sure[:1].repeat(4, 1)
    log_4 = math.log(4)
    assert (mean_entropy(sure), mean_entropy(one_class)) == (0.0, 0.0)  # blind to a collapse
    assert mean_entropy(flat) == pytest.approx(log_4)
    assert information_maximisation(sure) == pytest.approx(log_4)
    assert information_maximisation(flat) == pytest.approx(0.0, abs=1e-12)
    assert information_maximisation(one_class) == pytest.approx(0.0, abs=1e-12)
    # The three others are equally near, whether all alike or all different.
    assert soft_neighbourhood_density(sure) == pytest.approx(math.log(3))
    assert soft_neighbourhood_density(one_class) == pytest.approx(math.log(3))
    # Two pairs: each has its partner at 1 and two others at 0, at a temperature of 1.
    pairs = sure[[0, 0, 1, 1]]
    p = [math.e / (math.e + 2), 1 / (math.e + 2), 1 / (math.e + 2)]
    assert soft_neighbourhood_density(pairs, temperature=1.0) == pytest.approx(slow_entropy_of(p))
    assert soft_neighbourhood_density(pairs) < 1e-6  # a sharp one sees the partner alone


def test_accuracy_by_hand():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 4.0], [5.0, 1.0]])
    assert source_accuracy(logits, torch.tensor([0, 1, 0, 0])) == 0.75
    assert math.isnan(source_accuracy(logits[:0], torch.zeros(0, dtype=torch.int64)))
    expected = sum(max(range(2), key=row.__getitem__) == 1 for row in logits.tolist()) / 4
    assert source_accuracy(logits, torch.ones(4, dtype=torch.int64)) == expected


@pytest.mark.parametrize("elements", [1, 30, 170, 289, 10**6])
def test_density_in_blocks_of_rows_is_that_of_one(monkeypatch, elements):
    logits = logits_of(17)
    whole = soft_neighbourhood_density(logits)
    monkeypatch.setattr(criteria, "_BLOCK_ELEMENTS", elements)
    assert soft_neighbourhood_density(logits) == pytest.approx(whole, rel=1e-13)


def test_order_and_constant_do_not_matter_and_ranges_hold():
    logits = logits_of(40, 7)
    shuffled = logits[torch.randperm(40, generator=torch.Generator().manual_seed(1))] + 5.0
    limits = {"entropy": math.log(7), "im": math.log(7), "snd": math.log(39)}
    for name, criterion in UNSUPERVISED.items():
        assert criterion(shuffled) == pytest.approx(criterion(logits), rel=1e-10)
        assert 0 <= criterion(logits) <= limits[name]


def test_undefined_is_nan_and_not_a_good_score():
    for criterion in UNSUPERVISED.values():
        assert math.isnan(criterion(torch.zeros(0, 3)))
        assert math.isnan(criterion(torch.tensor([[1.0, math.nan], [0.0, 1.0]])))
        assert math.isnan(criterion(torch.tensor([[1.0, math.inf], [0.0, 1.0]])))
    assert math.isnan(soft_neighbourhood_density(torch.zeros(1, 3)))
    assert (mean_entropy(torch.zeros(1, 1)), information_maximisation(torch.zeros(1, 1))) == (0, 0)
    labels = torch.zeros(2, dtype=torch.int64)
    assert math.isnan(source_accuracy(torch.full((2, 2), math.nan), labels))


def test_each_name_has_a_function_and_a_direction():
    assert {*UNSUPERVISED, "source-val"} == set(CRITERIA)
    assert {"entropy"} == criteria.LOWER_IS_BETTER
