"""The papers' figures as data: all of them are read, and what is not there is refused."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

import evalsuite.published as published
from evalsuite.published import (
    SOURCES,
    all_complexity,
    all_figures,
    published_complexity,
    published_figures,
    table_number,
)
from evalsuite.vectors.embeddings import EvaluationError

FOLDER = Path(published.__file__).parent
TABLES = {
    "astn": ["1", "2", "3", "4", "6", "7"],
    "hifa": ["1", "2", "3"],
    "ftspl": ["I", "II", "III", "IV", "V"],
    "dca": ["I", "II"],
    "daisnet": ["1", "2", "3"],
}


def test_every_figure_of_the_file_is_read():
    with (FOLDER / "retrieval.csv").open() as file:
        lines = list(csv.reader(file))
    head, *rows = lines
    given = Counter(
        name for row in rows for name, value in zip(head[6:], row[6:], strict=True) if value
    )
    read = Counter(metric.lower() for row in all_figures() for metric in row.metrics)
    assert len(all_figures()) == len(rows) == 153
    assert read == given
    total = sum(float(value) for row in rows for value in row[6:] if value)
    assert sum(v for row in all_figures() for v in row.metrics.values()) == pytest.approx(total)


def test_every_table_is_found_by_every_way_to_write_it():
    assert set(TABLES) == set(SOURCES)
    found = []
    for source, tables in TABLES.items():
        for table in tables:
            rows = published_figures(source, table)
            assert rows
            number = table_number(table)
            assert number is not None
            assert rows == published_figures(source.upper(), number)
            assert rows == published_figures(SOURCES[source], table.lower())
            found += rows
    assert Counter(map(id, found)) == Counter(map(id, all_figures()))


def test_figures_as_printed():
    last = published_figures("astn", 1)[-1]
    assert (last.method, last.variant, last.dataset) == ("astn", "", "mi3dor")
    assert last.metrics == {
        "NN": 0.790,
        "FT": 0.647,
        "ST": 0.797,
        "F": 0.156,
        "DCG": 0.679,
        "ANMRR": 0.334,
        "AUC": 0.576,
    }
    kecnn = next(row for row in published_figures("dca", "I") if row.method == "kecnn")
    assert "mAP" not in kecnn.metrics, "the paper has NA"
    assert {row.dataset for row in published_figures("dais-net", 2)} == {
        "shrec14->shapenet",
        "shapenet->shrec14",
    }


def test_complexity_as_printed():
    assert [
        (row.model, row.parameters_millions, row.multiply_adds_millions)
        for row in published_complexity("astn", 5)
    ] == [("alexnet", 57.92, 723.19), ("mstn", 59.24, 724.51), ("astn", 59.24, 724.51)]
    ibsr = published_complexity("daisnet", 4)[0]
    assert (ibsr.model, ibsr.parameters_millions, ibsr.multiply_adds_millions) == (
        "ibsr",
        35.06,
        None,
    )
    assert len(all_complexity()) == 7


def test_metrics_lie_in_their_range():
    for row in all_figures():
        assert all(0 < value < 1 for value in row.metrics.values()), row


@pytest.mark.parametrize(
    ("source", "table", "message"),
    [
        ("asnt", 1, "no published figures of 'asnt'; known: astn, hifa, ftspl, dca, daisnet"),
        ("astn", 5, "ASTN has no retrieval table '5'; its retrieval tables: 1, 2, 3, 4, 6, 7"),
        ("ftspl", "VI", "FTSPL has no retrieval table 'VI'; its retrieval tables: I, II, III, IV"),
        ("hifa", "first", "HIFA has no retrieval table 'first'"),
    ],
)
def test_what_is_not_published_is_refused(source, table, message):
    with pytest.raises(EvaluationError) as error:
        published_figures(source, table)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_retrieval_table_has_no_complexity():
    with pytest.raises(EvaluationError, match=r"HIFA has no complexity table '1'; .*: none"):
        published_complexity("hifa", 1)


@pytest.mark.parametrize("text", ["", "VI", "1.5", "-1"])
def test_what_is_no_table_number(text):
    assert table_number(text) is None
