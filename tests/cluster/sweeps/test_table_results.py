"""Ours beside the papers' figures: from ledger rows to a result table."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.sweeps.tables.paper_tables import load_table
from cluster.sweeps.tables.printing import print_result_table
from cluster.sweeps.tables.table_results import result_table
from evalsuite.tables.result_table import ResultTable, Value
from evalsuite.tables.result_table_export import to_markdown
from trainer.config import ConfigError
from trainer.networks.torchvision_shim import import_torchvision

METRICS = ("NN", "FT", "ST", "F", "DCG", "ANMRR", "AUC")


def ledger_row(value: float, **changes: Any) -> dict[str, Any]:
    """A finished run with every metric at ``value``."""
    return {
        "status": "finished",
        "seed": 0,
        "selection": "im",
        "config": {"network": {"backbone": "tiny"}},
        "metrics": dict.fromkeys(METRICS, value),
        "oracle": {"step": 1, "metrics": dict.fromkeys(METRICS, value + 0.1)},
        "intervals": {"FT": [value - 0.02, value + 0.04]},
        "error": None,
        **changes,
    }


def value(table: ResultTable, label: str, side: str, column: str, metric: str) -> Value:
    row = next(row for row in table.rows if row.label == label)
    line = next(line for line in row.lines if line.side == side)
    places = [(place.column, place.metric) for place in table.places]
    return line.values[places.index((column, metric))]


def test_ours_stand_beside_the_published_figures():
    found = {("Only AFE", "mi3dor"): [ledger_row(0.4), ledger_row(0.6)]}
    table = result_table(load_table("astn-3"), found, data="real")
    ours = value(table, "Only AFE", "ours", "MI3DOR", "FT")
    assert (ours.mean, ours.seeds, ours.published) == (pytest.approx(0.5), 2, 0.516)
    assert ours.spread == pytest.approx(0.1 * 2**0.5)
    assert ours.interval == (pytest.approx(0.48), pytest.approx(0.54))
    assert ours.difference == pytest.approx(0.5 - 0.516)
    assert value(table, "Only AFE", "oracle", "MI3DOR", "FT").mean == pytest.approx(0.6)
    assert value(table, "DSA + AFE", "published", "MI3DOR", "FT").mean == 0.647
    assert value(table, "DSA + AFE", "published", "MI3DOR", "FT").best
    assert table.selections == ("im",)


def test_columns_of_two_data_sets_have_their_own_figures():
    table = result_table(load_table("ftspl-5"), {}, data="real")
    for label, first, second in (("FT", 0.649, 0.645), ("SPL", 0.653, 0.650)):
        assert value(table, label, "published", "MI3DOR", "FT").mean == first
        assert value(table, label, "published", "MI3DOR-2", "FT").mean == second


def test_stand_ins_are_said_to_be_stand_ins():
    table = result_table(load_table("astn-7"), {})
    assert [column.name for column in table.columns] == ["style a", "style b"]
    shown = to_markdown(table)
    assert "stands in for MI3DOR-2; compare its rows among themselves" in shown
    real = to_markdown(result_table(load_table("astn-7"), {}, data="real"))
    assert "stand" not in real


def test_what_has_no_number_says_why():
    found = {
        ("JAN", "mi3dor"): [ledger_row(0.5, metrics=None, error="out of memory")],
        ("DANN", "mi3dor"): [ledger_row(0.5), ledger_row(0.5, metrics=None, error="lost")],
    }
    table = result_table(
        load_table("astn-1"), found, {("MEDA", "mi3dor"): "no classifier"}, data="real"
    )
    reasons = {row.label: row.skipped for row in table.rows if row.skipped}
    assert reasons == {
        "JAN": {"MI3DOR": "failed: out of memory"},
        "MEDA": {"MI3DOR": "no classifier"},
        "UCM-GCN": {"MI3DOR": "not part of this project"},
    }
    assert value(table, "DANN", "ours", "MI3DOR", "FT").seeds == 1


def test_a_row_without_counterpart_on_the_benchmark():
    table = load_table("astn-6")
    assert result_table(table, {}).rows[0].skipped.keys() == {"style a"}
    assert not result_table(table, {}, data="real").rows[0].skipped


def test_one_oracle_makes_the_row_an_oracles():
    found = {("ASTN", "mi3dor"): [ledger_row(0.5), ledger_row(0.6, selection="oracle")]}
    row = result_table(load_table("astn-1"), found).rows[-1]
    assert row.is_oracle


def test_a_row_named_after_the_papers_trunk_says_which_one_was_trained():
    places = [("AlexNet", "mi3dor"), ("ASTN", "mi3dor")]
    table = result_table(load_table("astn-1"), {place: [ledger_row(0.5)] for place in places})
    labels = [row.label for row in table.rows]
    assert (labels[0], labels[-1]) == ("AlexNet (ours: tiny)", "ASTN")
    same = {"config": {"network": {"backbone": "alexnet"}}}
    table = result_table(load_table("astn-1"), {places[0]: [ledger_row(0.5, **same)]}, data="real")
    assert table.rows[0].label == "AlexNet"


@pytest.mark.parametrize("place", [("ATSN", "mi3dor"), ("ASTN", "mi3dor-2")])
def test_a_place_that_the_table_has_not(place):
    with pytest.raises(ConfigError, match=f"astn-1: has no row '{place[0]}' with column"):
        result_table(load_table("astn-1"), {place: [ledger_row(0.5)]})


@pytest.mark.slow
def test_the_complexity_table_of_astn_comes_out():
    table = result_table(load_table("astn-5"), {})
    published = {
        "AlexNet": (57.92, 723.19),
        "MSTN": (59.24, 724.51),
        "ASTN": (59.24, 724.51),
    }
    for label, (parameters, multiply_adds) in published.items():
        for metric, figure in zip(
            ("parameters (M)", "multiply-adds (M)"), (parameters, multiply_adds), strict=True
        ):
            ours = value(table, label, "ours", "complexity", metric)
            assert ours.mean is not None
            assert (round(ours.mean, 2), ours.published) == (figure, figure)
    assert "complexity: computed, without any training" in to_markdown(table)


@pytest.mark.slow
def test_systems_of_others_are_published_only():
    table = result_table(load_table("daisnet-4"), {})
    first = table.rows[0]
    assert (first.label, [line.side for line in first.lines]) == ("IBSR", ["published"])
    assert first.skipped == {"complexity": "not part of this project"}
    assert value(table, "IBSR", "published", "complexity", "parameters (M)").mean == 35.06
    smaller, larger = (
        value(table, label, "ours", "complexity", "parameters (M)")
        for label in ("ResNet-18", "ResNet-34")
    )
    assert smaller.mean is not None
    assert larger.mean is not None
    assert smaller.published is not None
    assert larger.published is not None
    models = import_torchvision().models
    trunks = [
        sum(p.numel() for name, p in net.named_parameters() if not name.startswith("fc."))
        for net in (models.resnet18(), models.resnet34())
    ]
    ours, theirs = larger.mean - smaller.mean, larger.published - smaller.published
    assert ours == pytest.approx((trunks[1] - trunks[0]) / 1e6, abs=1e-9)
    assert (round(ours, 2), round(theirs, 2)) == (10.11, 10.11)
    assert round(smaller.published - smaller.mean, 2) == 6.30, "not explained"


def test_a_complexity_table_may_have_metrics_of_trainings_too():
    """Counted numbers are not trainings: they do not enter the number of seeds."""
    runs = [ledger_row(0.4 + seed / 10, seed=seed) for seed in range(3)]
    table = result_table(load_table("astn-5"), {("MSTN", "mi3dor"): runs}, data="real")
    shown = value(table, "MSTN", "ours", "MI3DOR", "NN")
    assert (shown.mean, shown.seeds, shown.published) == (pytest.approx(0.5), 3, 0.789)
    text = to_markdown(table)
    assert "computed, without any training; Ours: mean over 3 seeds" in text
    assert "| 59.24 | 724.51 | 0.500 ± 0.100 |" in text
    assert "n=1" not in text


def test_an_ablation_row_says_whether_its_difference_is_the_published_one():
    """ASTN, table 3: without DSA FT falls from 0.647 to 0.516, ANMRR rises."""
    values = {
        "Only AFE": [0.50, 0.51, 0.52],
        "Only DSA": [0.62, 0.58, 0.60],
        "DSA + AFE": [0.6] * 3,
    }
    found = {
        (label, "mi3dor"): [ledger_row(value, seed=seed) for seed, value in enumerate(own)]
        for label, own in values.items()
    }
    # The seeds of the full method in another order: pairs are found by seed.
    found[("DSA + AFE", "mi3dor")] = found[("DSA + AFE", "mi3dor")][::-1]
    table = result_table(load_table("astn-3"), found)
    rows = {row.label: row for row in table.rows}
    at = [place.metric for place in table.places].index
    afe = rows["Only AFE"].to_full
    ft = afe[at("FT")]
    assert ft is not None
    assert ft.difference == pytest.approx(-0.09)
    assert ft.half_width == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)
    assert (ft.published, ft.verdict, ft.pairs) == (pytest.approx(0.516 - 0.647), "agrees", 3)
    assert afe[at("ANMRR")].verdict == "disagrees"  # every metric of ours falls  # pyright: ignore[reportOptionalMemberAccess]
    assert rows["Only DSA"].to_full[at("FT")].verdict == "not told apart"  # pyright: ignore[reportOptionalMemberAccess]
    assert not rows["DSA + AFE"].to_full
    assert not rows["AlexNet"].to_full  # no run of ours
    text = to_markdown(table)
    assert "minus full: difference to the row DSA + AFE" in text
    assert "−0.090 ± 0.025" in text
    alone = result_table(load_table("astn-1"), {("ASTN", "mi3dor"): [ledger_row(0.5)]})
    assert "minus full" not in to_markdown(alone)


def test_one_seed_is_not_told_apart_and_runs_without_partner_do_not_count():
    rows = [ledger_row(0.9, seed=0), ledger_row(0.1, seed=5)]
    found = {("centres", "mi3dor"): rows, ("instances", "mi3dor"): [ledger_row(0.1, seed=0)]}
    table = result_table(load_table("astn-7"), found)
    one = table.rows[0].to_full[1]
    assert one is not None
    assert (one.pairs, one.half_width, one.verdict) == (1, None, "not told apart")
    assert table.rows[0].to_full[3].verdict == "equal in print"  # pyright: ignore[reportOptionalMemberAccess]


def test_the_catalogue_has_one_column_for_two_data_sets():
    found = {("global", "mi3dor"): [ledger_row(0.5)]}
    table = result_table(load_table("hifa-3"), found, data="catalogue")
    assert [column.name for column in table.columns] == ["catalogue"]
    shown = to_markdown(table)
    assert "the furniture catalogue stands in for MI3DOR and MI3DOR-2" in shown
    assert "the published figures are those of MI3DOR" in shown
    assert value(table, "global", "published", "catalogue", "FT").mean == 0.569


def test_printed_columns_each_have_a_head_of_their_own(capsys):
    found = {("FT", "mi3dor"): [ledger_row(0.5)], ("FT", "mi3dor-2"): [ledger_row(0.25)]}
    print_result_table(result_table(load_table("ftspl-5"), found, data="real"))
    printed = capsys.readouterr().out
    assert "\\n" not in printed
    lines = printed.splitlines()
    heads = [line.split() for line in lines if line.strip().endswith(("ANMRR", "rank"))]
    metrics = ["NN", "FT", "ST", "F", "DCG", "ANMRR"]
    assert heads == [["MI3DOR", *metrics, "rank"], ["MI3DOR-2", *metrics]]
    ours = [line.split()[1:4] for line in lines if line.split()[:2] == ["FT", "ours"]]
    assert ours == [["ours", "0.500", "0.500"], ["ours", "0.250", "0.250"]]
    assert "…" not in printed
