"""Tables and verdicts of the benchmarks of methods."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import catalogue
import cells

from evalsuite.statistics import seed_half_width
from trainer.config import load_config
from trainer.methods import METHODS
from trainer.shipped import find_config, shipped_configs

FT = {"astn": [0.7, 0.72, 0.71], "source-only": [0.6, 0.63, 0.6], "dann": [0.6, 0.6, 0.65]}
ROWS = {
    label: [{"FT": value, "median_rank": 2.0, "seconds": 3.25} for value in values]
    for label, values in FT.items()
}


def test_interval_of_a_mean_is_that_of_scipy():
    low, high = stats.t.interval(0.95, 2, loc=np.mean(FT["astn"]), scale=stats.sem(FT["astn"]))
    assert seed_half_width(FT["astn"]) == pytest.approx((high - low) / 2, rel=1e-12)


def test_seeds_make_pairs_of_two_methods():
    found = cells.difference(ROWS, "astn", "source-only")
    paired = stats.ttest_rel(FT["astn"], FT["source-only"]).confidence_interval(0.95)
    assert found.mean == pytest.approx((paired.low + paired.high) / 2, rel=1e-12)
    assert found.half_width == pytest.approx((paired.high - paired.low) / 2, rel=1e-12)


def test_a_verdict_needs_an_interval_without_zero():
    assert catalogue.verdict(ROWS, "astn", "source-only").startswith("astn is above source-only")
    assert "not told apart from" in catalogue.verdict(ROWS, "dann", "source-only")
    assert "below" in catalogue.verdict(ROWS, "source-only", "astn")


def test_one_seed_gives_no_verdict():
    rows = {label: part[:1] for label, part in ROWS.items()}
    assert "not told apart from" in catalogue.verdict(rows, "astn", "source-only")
    assert "±" not in cells.markdown(rows, ["astn"], ["FT"], seed_half_width)


def test_a_table_has_a_line_a_label():
    table = cells.markdown(ROWS, ["astn", "dann"], ["FT", "seconds"], seed_half_width)
    head, rule, first, second = table.splitlines()
    assert head == "| method | FT | seconds |"
    assert first == "| astn | 0.710 ± 0.025 | 3.2 ± 0.0 |"
    assert second.startswith("| dann | 0.617 ± ")
    assert rule.count("|") == head.count("|")


def test_every_cell_of_the_catalogue_is_a_run_description():
    for label, (config, overrides) in catalogue.known().items():
        load_config(find_config(f"catalogue/{config}"), overrides), label


def test_the_catalogue_has_a_description_of_every_method():
    shipped = {
        n.removeprefix("catalogue/") for n in shipped_configs() if n.startswith("catalogue/")
    }
    assert set(METHODS) <= shipped
    assert {f"{m}-last" for m in ("source-only", "astn", "hifa", "ftspl", "daisnet")} <= shipped
    listed = {config for config, _ in catalogue.known().values()}
    assert shipped == listed
