"""The parts of the report: the headline table, signals, choice of queries, provenance."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from evalsuite.pages.headline import MEASURES, cautions, headline_rows
from evalsuite.pages.report import comparisons, config_differences, duration, signal_panels
from evalsuite.pages.runs import RunView, view_run
from evalsuite.pages.strips import choose_queries
from evalsuite.scoring.options import Options
from tests.evalsuite.fake_runs import CLASSES, METHODS, write_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunView]:
    folders = write_runs(tmp_path_factory.mktemp("runs"), queries=6, shapes=5)
    return [view_run(folder) for folder in folders]


def test_headline_marks_best_differences_and_intervals(runs: list[RunView]) -> None:
    rows = headline_rows(runs, [run.name for run in runs])
    keys = [measure.key for measure in MEASURES]
    precision, anmrr = keys.index("mAP"), keys.index("ANMRR")
    values = [run.evaluation.headline["mAP"] for run in runs]
    assert [row.cells[precision].best for row in rows] == [v == max(values) for v in values]
    lowest = min(row.cells[anmrr].value for row in rows)
    assert [row.cells[anmrr].best for row in rows] == [
        row.cells[anmrr].value == lowest for row in rows
    ]
    assert all(not cell.delta for cell in rows[0].cells)
    last = rows[2].cells
    assert last[precision].delta == f"+{round(values[2] - values[0], 3):.3f}"
    assert last[precision].better
    assert last[anmrr].delta.startswith("−")
    assert last[anmrr].better
    low, high = map(float, re.findall(r"\d\.\d{3}", last[precision].interval))
    assert low < values[2] < high
    assert not last[keys.index("AUC")].interval


def test_incomparable_runs_are_announced(runs: list[RunView]) -> None:
    names = [run.name for run in runs]
    assert cautions(runs, names) == []
    other = replace(
        runs[1],
        info={**runs[1].info, "data": {"fingerprint": "another"}},
        evaluation=replace(
            runs[1].evaluation, options=Options(metric="cosine"), warnings=("many ties",)
        ),
    )
    said = " ".join(cautions([runs[0], other], names[:2]))
    assert "trained on different data" in said
    assert "different options" in said
    assert "dann: many ties" in said


def test_a_warning_of_several_runs_is_said_once(runs: list[RunView]) -> None:
    warned = [replace(run, evaluation=replace(run.evaluation, warnings=("ties",))) for run in runs]
    assert cautions(warned, ["a", "b", "c"]) == ["a, b, c: ties"]


def test_a_long_log_is_thinned_to_means() -> None:
    log = [{"step": step, "loss": float(step % 2)} for step in range(20_000)]
    panel = signal_panels([log], [1])["Loss, rate and time"][0]
    assert len(panel.svg) < 20_000
    assert panel.not_finite == 0


def test_queries_are_chosen_evenly_over_quality_and_class() -> None:
    labels = [CLASSES[row % 8] for row in range(160)]
    precision = np.random.default_rng(0).permutation(160) / 160
    table = pa.table({"key": [f"q{row}" for row in range(160)], "label": labels, "AP": precision})
    chosen = choose_queries([table], count=8, seed=4)
    bands = [int(precision[int(key[1:])] * 8) for key in chosen]
    assert bands == list(range(8))
    assert Counter(labels[int(key[1:])] for key in chosen) == dict.fromkeys(CLASSES, 1)
    assert chosen == choose_queries([table], count=8, seed=4)
    assert chosen != choose_queries([table], count=8, seed=5)


def test_queries_left_out_of_an_evaluation_are_not_chosen() -> None:
    first = pa.table({"key": ["a", "b", "c"], "label": ["x"] * 3, "AP": [0.1, None, 0.3]})
    second = pa.table({"key": ["c", "b", "a"], "label": ["x"] * 3, "AP": [0.3, 0.2, 0.1]})
    assert choose_queries([first, second], count=5) == ["a", "c"]
    assert choose_queries([first, second], count=5, among={"c"}) == ["c"]
    assert choose_queries([first], count=5, among=set()) == []


def test_config_differences() -> None:
    texts = ["a: {b: 1, c: 2}\nd: x", "a: {b: 1, c: 3}", "a: [broken"]
    assert config_differences(texts) == [
        ("a.b", ["1", "1", "–"]),
        ("a.c", ["2", "3", "–"]),
        ("d", ["x", "–", "–"]),
    ]
    assert config_differences(texts[:1]) == []


def test_provenance_tables(runs: list[RunView]) -> None:
    tables = {table.title: dict(table.rows) for table in comparisons(runs)}
    assert tables["Versions"]["torch"] == ["2.13.0"] * 3
    assert tables["Training"]["parameters"] == ["11\u202f176\u202f512"] * 3
    assert tables["Options that differ"]["method.name"] == list(METHODS)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (8.44, "8.4 s"),
        (59.97, "1 min 00 s"),
        (192, "3 min 12 s"),
        (7500, "2 h 05 min"),
        (float("nan"), "–"),
    ],
)
def test_duration(seconds: float, words: str) -> None:
    assert duration(seconds) == words
