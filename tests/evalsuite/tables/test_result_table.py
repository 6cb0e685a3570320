"""The result table: means, spreads, bests and ranks against slow counts, and its four forms."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from evalsuite.tables.result_table import Column, Entry, Line, ResultTable, build_table
from evalsuite.tables.result_table_export import (
    CSV_FIELDS,
    caption,
    footnotes,
    lines_of,
    text_lines,
    to_csv,
    to_html,
    to_latex,
    to_markdown,
)
from evalsuite.vectors.embeddings import EvaluationError

COLUMNS = (Column("one", ("NN", "ANMRR")), Column("two", ("NN",)))
HOSTILE = r"<script>alert(1)</script> | $x_1$ & 50 % \cite{a} [b] ~ ^ #"


def entry(label: str, *seeds: tuple[float | None, float | None, float | None], **more) -> Entry:
    """An entry from (NN of one, ANMRR of one, NN of two) for each seed."""
    ours = {
        "one": [{"NN": nn, "ANMRR": anmrr} for nn, anmrr, _ in seeds],
        "two": [{"NN": nn} for _, _, nn in seeds],
    }
    return Entry(label, ours=ours, **more)


def line(table: ResultTable, row: int, side: str) -> Line:
    return next(found for found in table.rows[row].lines if found.side == side)


def test_mean_spread_and_difference_are_those_of_the_seeds() -> None:
    seeds = ((0.5, 0.2, 0.1), (0.6, None, math.nan), (0.9, 0.4, None))
    one = entry(
        "a",
        *seeds,
        published={"one": {"NN": 0.7, "ANMRR": None}},
        intervals={"one": {"NN": (0.6, 0.8)}},
    )
    table = build_table("t", COLUMNS, [one])
    nn, anmrr, other = line(table, 0, "ours").values
    mean = sum((0.5, 0.6, 0.9)) / 3
    assert nn.mean == pytest.approx(mean)
    assert nn.spread == pytest.approx(math.sqrt(sum((v - mean) ** 2 for v in (0.5, 0.6, 0.9)) / 2))
    assert (nn.seeds, anmrr.seeds, other.seeds) == (3, 2, 1)
    assert nn.interval == (0.6, 0.8)
    assert nn.difference == pytest.approx(mean - 0.7)
    assert anmrr.published is anmrr.difference is None
    assert (other.mean, other.spread) == (0.1, None)
    assert table.seeds == (1, 3)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_and_bests_equal_a_count_of_pairs(seed: int) -> None:
    """A rank is 1 + those that are better + half of the others that are equal."""
    random = np.random.default_rng(seed)
    values = random.integers(0, 6, size=(7, 3)) / 10 + random.uniform(-4e-4, 4e-4, size=(7, 3))
    known = random.uniform(size=values.shape) > 0.25
    rows = [
        tuple(float(v) if there else None for v, there in zip(*pair, strict=True))
        for pair in zip(values, known, strict=True)
    ]
    table = build_table("t", COLUMNS, [entry(str(i), row) for i, row in enumerate(rows)])
    ranks: dict[int, list[float]] = {i: [] for i in range(7)}
    for place, where in enumerate(table.places):
        sign = -1 if where.metric == "ANMRR" else 1
        there = [i for i in range(7) if known[i, place]]
        for i in there:
            mine = sign * round(values[i, place], 3)
            others = [sign * round(values[k, place], 3) for k in there if k != i]
            better, equal = sum(o > mine for o in others), sum(o == mine for o in others)
            ranks[i].append(1 + better + equal / 2)
            assert line(table, i, "ours").values[place].best == (better == 0)
    for i, own in ranks.items():
        if own:
            rank = line(table, i, "ours").rank
            assert rank is not None
            assert rank.average == pytest.approx(statistics.fmean(own))
            assert (rank.counted, rank.places) == (len(own), 3)


def test_published_figures_compete_among_themselves() -> None:
    entries = [
        entry("a", (0.9, 0.1, 0.9), published={"one": {"NN": 0.5, "ANMRR": 0.3}}),
        entry("b", (0.1, 0.9, 0.1), published={"one": {"NN": 0.6, "ANMRR": 0.5}}),
    ]
    table = build_table("t", COLUMNS, entries)
    assert [v.best for v in line(table, 0, "ours").values] == [True, True, True]
    assert [v.best for v in line(table, 0, "published").values] == [False, True, False]
    assert [v.best for v in line(table, 1, "published").values] == [True, False, False]
    rank = line(table, 1, "published").rank
    assert rank is not None
    assert (rank.average, rank.counted, rank.places) == (1.5, 2, 2)


def test_an_oracle_never_competes_with_the_others_and_is_marked() -> None:
    entries = [
        entry("honest", (0.5, 0.4, 0.5), oracle={"one": [{"NN": 0.99, "ANMRR": 0.0}]}),
        entry("other", (0.4, 0.5, 0.4)),
        entry("told", (0.9, 0.1, 0.9), selection="oracle", oracle={"one": [{"NN": 0.9}]}),
    ]
    table = build_table("t", COLUMNS, entries)
    assert [v.best for v in line(table, 0, "ours").values] == [True] * 3
    assert not any(v.best for v in line(table, 2, "ours").values)
    assert line(table, 2, "ours").rank is None
    assert [found.side for found in table.rows[2].lines] == ["ours"]
    assert [found.side for found in table.rows[0].lines] == ["ours", "oracle"]
    words = [(found.label, found.side) for found in text_lines(table)]
    assert words[:2] == [("honest", "ours"), ("", "oracle †")]
    assert words[-1] == ("told †", "ours")
    assert footnotes(table)[0].startswith("† ")
    assert "last, oracle" in caption(table)


def test_ranks_over_fewer_columns_are_told() -> None:
    table = build_table("t", COLUMNS, [entry("a", (0.5, 0.4, None)), entry("b", (0.4, 0.5, 0.1))])
    rank = line(table, 0, "ours").rank
    assert rank is not None
    assert (rank.counted, rank.places) == (2, 2)  # nobody competes in the third
    table = build_table(
        "t", COLUMNS, [*(entry(n, (0.5, 0.4, 0.2)) for n in "ab"), entry("c", (0.1, None, 0.1))]
    )
    assert footnotes(table) == ["c, ours: rank over 2 of 3 columns"]
    assert text_lines(table)[2].rank == "3.0 (2 of 3)"


def test_nothing_to_rank() -> None:
    columns = [Column("networks", ("parameters, M", "multiply-adds, M"), trained=False)]
    one = Entry(
        "AlexNet",
        published={"networks": {"parameters, M": 57.92}},
        ours={"networks": [{"parameters, M": 57.922453, "multiply-adds, M": 723.19}]},
        selection="",
    )
    table = build_table("t", columns, [one, one], decimals=2, ranked=False)
    assert not any(value.best for value in line(table, 0, "ours").values)
    assert list(text_lines(table)[0].cells) == ["57.92", "723.19"]
    assert text_lines(table)[2].cells == ("±0.00", "–")
    assert "rank" not in to_markdown(table)
    assert caption(table) == "networks: computed, without any training."


def test_a_skipped_column_has_its_reason_and_an_empty_row_is_still_a_row() -> None:
    entries = [Entry("a", skipped={"two": "needs two domains"}), entry("b", (0.5, 0.5, 0.5))]
    table = build_table("t", COLUMNS, entries)
    assert text_lines(table)[0].cells == ("–", "–", "–")
    assert "a, two: needs two domains" in footnotes(table)
    assert "needs two domains" in to_csv(table)


@pytest.mark.parametrize(
    ("columns", "entries", "said"),
    [
        ((), (), "at least one column"),
        ((Column("a", ()),), (), "at least one column"),
        ((Column("a", ("NN",)), Column("a", ("FT",))), (), "twice"),
        (COLUMNS, (Entry("x", skipped={"three": "?"}),), "'three'"),
        (COLUMNS, (Entry("x", published={"uno": {}}),), "one, two"),
    ],
)
def test_mistakes_are_refused_in_one_line(columns, entries, said: str) -> None:
    with pytest.raises(EvaluationError, match=said) as caught:
        build_table("t", columns, entries)
    assert "\n" not in str(caught.value)


@pytest.fixture
def hostile() -> ResultTable:
    columns = [Column(HOSTILE, ("NN", "FT"), note=HOSTILE)]
    ours = {HOSTILE: [{"NN": 0.5, "FT": -0.25}, {"NN": 0.52, "FT": 0.25}]}
    published = {HOSTILE: {"NN": 0.6}}
    one = Entry(HOSTILE, ours=ours, published=published, note=HOSTILE)
    return build_table(HOSTILE, columns, [one, Entry("b", ours={HOSTILE: [{"NN": 0.1}]})])


def test_markdown_rows_have_equal_numbers_of_cells(hostile: ResultTable) -> None:
    text = to_markdown(hostile)
    rows = [row for row in text.splitlines() if row.startswith("| ")]
    assert len(rows) == 2 + len(text_lines(hostile))
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}
    assert "**0.510 ± 0.014**" in text
    assert "<script>" not in text
    assert "difference | −0.090 | –" in text
    assert "0.100 (n=1)" in text


def test_latex_is_escaped_and_balanced(hostile: ResultTable) -> None:
    text = to_latex(hostile)
    for left, right in ((r"\begin{table}", r"\end{table}"), (r"\begin{tabular}", r"\end{tabular}")):
        assert text.count(left) == text.count(right) == 1
    bare = re.sub(r"\\[&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    assert "%" not in bare
    assert "#" not in bare
    body = bare.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    rows = [row for row in body.splitlines() if row.endswith(r"\\")]
    assert len(rows) == len(text_lines(hostile))
    assert {row.count("&") for row in rows} == {4}
    assert r"\textbf{0.510 $\pm$ 0.014}" in text
    assert r"\cmidrule(lr){3-4}" in text


def test_csv_reads_back_in_full_precision(hostile: ResultTable) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(hostile))))
    assert tuple(rows[0]) == CSV_FIELDS
    (nn,) = [r for r in rows if (r["row"], r["side"], r["metric"]) == (HOSTILE, "ours", "NN")]
    value = line(hostile, 0, "ours").values[0]
    assert float(nn["value"]) == value.mean
    assert float(nn["spread"]) == value.spread
    assert float(nn["difference"]) == value.difference
    assert (nn["seeds"], nn["best"], nn["oracle"], nn["column"]) == ("2", "1", "0", HOSTILE)
    assert [r["side"] for r in rows] == ["ours", "ours", "published", "ours"]


class Fragment(HTMLParser):
    """Checks nesting and counts tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_html_is_well_formed_and_escaped(hostile: ResultTable) -> None:
    page = Fragment(to_html(hostile))
    assert not page.open
    assert "script" not in page.counts
    shown = sum(len(lines_of(hostile, span)) for span in hostile.spans)
    assert page.counts["tr"] == len(hostile.columns) + shown
    assert page.counts["ul"] == 1
    assert HOSTILE in page.words


def test_every_form_is_the_same_each_time(hostile: ResultTable) -> None:
    for form in (to_markdown, to_latex, to_csv, to_html):
        assert form(hostile) == form(hostile)
        assert form(hostile).endswith("\n")


def test_a_row_to_compare_with_must_be_there() -> None:
    with pytest.raises(EvaluationError, match="no row 'whole' to compare with; the rows are a"):
        build_table("t", COLUMNS, [entry("a", (0.5, 0.5, 0.5))], full="whole")


def test_the_comparison_with_the_full_method_is_in_every_form() -> None:
    figures = {"one": {"NN": 0.5, "ANMRR": 0.3}}
    whole = entry("whole", (0.8, 0.2, 0.1), (0.7, 0.2, 0.1), seeds={"one": [0, 1]})
    part = entry("part", (0.6, 0.2, 0.1), (0.51, 0.2, 0.1), seeds={"one": [0, 1]})
    whole = replace(whole, published=figures)
    part = replace(part, published={"one": {"NN": 0.4, "ANMRR": 0.3}})
    table = build_table("t", COLUMNS, [whole, part], full="whole")
    found = table.rows[1].to_full
    assert found[0] is not None
    assert (found[0].difference, found[0].verdict) == (pytest.approx(-0.195), "agrees")
    assert found[1] is not None
    assert found[1].verdict == "equal in print"
    assert found[2] is None  # nothing published
    for form in (to_markdown, to_latex, to_html):
        assert "minus full" in form(table)
        assert "agrees" in form(table)
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    signs = [(li["row"], li["metric"], li["sign"]) for li in lines if li["sign"]]
    assert signs == [("part", "NN", "agrees"), ("part", "ANMRR", "equal in print")]


def test_columns_may_have_decimals_of_their_own() -> None:
    columns = (Column("one", ("NN", "ANMRR"), decimals=1), Column("two", ("NN",)))
    rows = [entry("a", (0.51, 0.14, 0.5004)), entry("b", (0.54, 0.16, 0.5016))]
    table = build_table("t", columns, rows)
    assert text_lines(table)[0].cells == ("0.5", "0.1", "0.500")
    assert text_lines(table)[0].best == (True, True, False)  # equal to one decimal
