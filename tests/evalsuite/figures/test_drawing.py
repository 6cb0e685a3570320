"""Each kind of figure from small made-up runs: the files, and the numbers in them."""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from evalsuite.figures.canvas import NAMED, Drawing, save_drawing
from evalsuite.figures.curves import CurvePanel, RunCurve, draw_curves, mean_curve
from evalsuite.figures.domains import DomainPanel, draw_domains
from evalsuite.figures.measures import Bar, BarPanel, Line, LinePanel, draw_bars, draw_lines
from evalsuite.figures.strips import StripPanel, draw_strips
from evalsuite.pages.runs import RunView, view_run
from evalsuite.scoring.evaluation import evaluate
from tests.evalsuite.fake_runs import pictures, write_run

NOTES = ["style a: a stand-in"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[RunView]:
    """Two runs with their own evaluator's results: curves at all recall levels."""
    folder = tmp_path_factory.mktemp("runs")
    views = []
    for name in ("source-only", "astn"):
        view = view_run(write_run(folder / name, name, queries=6, shapes=7, steps=3))
        assert view.queries is not None
        views.append(replace(view, evaluation=evaluate(view.queries, view.gallery)))
    return views


def written(drawing: Drawing, folder: Path) -> tuple[str, list[dict[str, str]]]:
    """The words of the SVG and the rows of the CSV; the PNG is a picture with more than paper."""
    files = save_drawing(drawing, folder / "some" / "astn-3")
    assert {path.name for path in files.values()} == {"astn-3.svg", "astn-3.png", "astn-3.csv"}
    svg = files["svg"].read_text()
    words = " ".join(text for text in ElementTree.fromstring(svg).itertext() if text.strip())
    with Image.open(files["png"]) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 20
    assert "astn-3" not in svg
    assert not re.search(r"20\d\d-\d\d-\d\d", svg), "a date would make each file another"
    return words, list(csv.DictReader(io.StringIO(files["csv"].read_text())))


def test_lines_have_means_spreads_and_the_papers_values(tmp_path: Path) -> None:
    values = ((0.5, 0.6, 0.7), (0.4,), ())
    line = Line("FT", (0.1, 0.3, 0.5), values, {0.3: 0.647})
    other = Line("NN", (0.1, 0.3, 0.5), values)
    panels = [[LinePanel("ASTN · style a", name, (line, other)) for name in ("θ", "α")]]
    words, rows = written(draw_lines("ASTN, figure 3", panels, NOTES), tmp_path)
    for word in ("ASTN, figure 3", "style a: a stand-in", "ASTN · style a", "θ", "α", "FT", "NN"):
        assert word in words
    assert len(rows) == 2 * 2 * 3
    first = rows[0]
    assert (first["parameter"], first["x"], first["metric"], first["seeds"]) == (
        "θ",
        "0.1",
        "FT",
        "3",
    )
    assert float(first["value"]) == pytest.approx(0.6)
    assert float(first["spread"]) == pytest.approx(statistics.stdev(values[0]))
    assert (rows[1]["published"], rows[1]["spread"]) == ("0.647", "")
    assert (rows[2]["value"], rows[2]["seeds"]) == ("", "0")


def test_bars_have_their_number_and_absent_ones_their_reason(tmp_path: Path) -> None:
    bars = (Bar("MSTN", (1.2, 1.4)), Bar("DSA + AFE", (0.5,)), Bar("AFE", (), "failed: lost"))
    panels = [BarPanel("style a", bars), BarPanel("style b", bars[::-1])]
    drawing = draw_bars("t", panels, [], measure="proxy A-distance")
    words, rows = written(drawing, tmp_path)
    assert "1.300" in words
    assert "0.500" in words
    assert words.count("–") == 2
    assert [row["row"] for row in rows[3:]] == ["AFE", "DSA + AFE", "MSTN"]
    assert rows[2]["missing"] == "failed: lost"
    assert float(rows[0]["value"]) == pytest.approx(1.3)


def test_curves_are_means_of_the_runs_at_the_levels(runs: list[RunView], tmp_path: Path) -> None:
    scored = tuple(run.evaluation for run in runs)
    curves = (RunCurve("both", scored), RunCurve("one", scored[:1]), RunCurve("none", (), "why"))
    drawing = draw_curves("t", [CurvePanel("style a", curves)], [], curve="shrec")
    words, rows = written(drawing, tmp_path)
    assert "none" not in words
    found = {(row["row"], float(row["recall"])): float(row["precision"]) for row in rows}
    for place, level in enumerate(np.arange(1, 21) / 20):
        own = [run.curves.interpolated[place] for run in scored]
        wanted = sum(own) / 2
        if np.isfinite(wanted):
            assert found["both", round(float(level), 6)] == pytest.approx(wanted)
            assert found["one", round(float(level), 6)] == pytest.approx(own[0])
    assert len(found) == 2 * np.isfinite(scored[0].curves.interpolated).sum()
    empty = draw_curves("t", [CurvePanel("a", curves[2:])], [], curve="shrec")
    assert "why" in written(empty, tmp_path)[0]


def test_a_pooled_curve_is_interpolated_between_its_points(runs: list[RunView]) -> None:
    """Of the ranks of one recall the first counts: the others have only found nothing."""
    evaluation = runs[1].evaluation
    points: list[tuple[float, float]] = []
    for recall, precision in zip(*evaluation.curves.drawn("pooled"), strict=True):
        if not points or recall > points[-1][0]:
            points.append((recall, precision))
    found = mean_curve([evaluation], "pooled")
    for level, value in zip(np.linspace(0, 1, 101), found, strict=True):
        if not points[0][0] <= level <= points[-1][0]:
            assert np.isnan(value)
            continue
        right = next(i for i, (recall, _) in enumerate(points) if recall >= level)
        (r0, p0), (r1, p1) = points[max(right - 1, 0)], points[right]
        share = (level - r0) / (r1 - r0) if r1 > r0 else 1.0
        assert value == pytest.approx(p0 + share * (p1 - p0))


@pytest.mark.parametrize(
    ("colouring", "image", "shape"),
    [("images blue", "#2a6db0", "#c8452f"), ("images red", "#c8452f", "#2a6db0")],
)
def test_domains_have_the_papers_colours(
    runs: list[RunView], colouring, image, shape, tmp_path: Path
) -> None:
    panels = [[DomainPanel("ASTN", runs[1]), DomainPanel("AFE", None, "failed: lost")]]
    drawing = draw_domains("t", panels, NOTES, colouring=colouring, items=20)
    words, rows = written(drawing, tmp_path)
    assert "failed: lost" in words
    assert "images" in words
    assert "shapes" in words
    assert [row["domain"] for row in rows] == ["image"] * 20 + ["shape"] * 20
    assert runs[1].queries is not None
    assert {row["key"] for row in rows[:20]} <= set(runs[1].queries.keys)
    scatters = drawing.figure.axes[0].collections
    found = {str(one.get_label()): one.get_facecolor() for one in scatters}
    for name, colour in (("images", image), ("shapes", shape)):
        rgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        np.testing.assert_allclose(np.asarray(found[name])[0, :3], rgb)


def test_domains_by_class_tell_queries_from_shapes(runs: list[RunView], tmp_path: Path) -> None:
    drawing = draw_domains(
        "t", [[DomainPanel("with DA", runs[1])]], [], colouring="classes", items=24
    )
    words, rows = written(drawing, tmp_path)
    for name in {row["class"] for row in rows}:
        assert f"{name}, images" in words
        assert f"{name}, shapes" in words


def test_strips_show_the_nearest_shapes_in_frames(runs: list[RunView], tmp_path: Path) -> None:
    run = runs[1]
    assert run.queries is not None
    assert run.gallery is not None
    panels = [StripPanel("ASTN", run, pictures), StripPanel("lost", None, None, "failed: lost")]
    drawing = draw_strips("t", panels, [], shown=5, queries=4, right="green", wrong="red")
    words, rows = written(drawing, tmp_path)
    assert "failed: lost" in words
    assert len(rows) == 4 * 5
    label_of = dict(zip(run.gallery.keys, run.gallery.labels, strict=True))
    for start in range(0, 20, 5):
        strip = rows[start : start + 5]
        query = run.queries.vectors[run.queries.keys.index(strip[0]["query"])]
        distances = np.linalg.norm(run.gallery.vectors - query, axis=1)
        nearest = [run.gallery.keys[i] for i in np.argsort(distances, kind="stable")[:5]]
        assert [row["shape"] for row in strip] == nearest
        for row in strip:
            assert row["right"] == str(int(label_of[row["shape"]] == row["query class"]))
    frames = [patch.get_edgecolor() for patch in drawing.figure.axes[0].patches]
    wrong = [frame for frame in frames if np.allclose(frame, to_rgba(NAMED["red"]))]
    assert len(frames) == 4 * 6
    assert len(wrong) == sum(row["right"] == "0" for row in rows)
    assert len(drawing.figure.axes[0].images) == 4 * 6


def test_runs_without_embeddings_say_so(runs: list[RunView], tmp_path: Path) -> None:
    bare = replace(runs[0], queries=None, gallery=None)
    makers: list[Callable[[], Drawing]] = [
        lambda: draw_strips("t", [StripPanel("a", bare)], [], shown=3),
        lambda: draw_domains("t", [[DomainPanel("a", bare)]], [], colouring="classes"),
    ]
    for make in makers:
        drawing = make()
        files = save_drawing(drawing, tmp_path / "bare")
        assert "its run has no" in " ".join(files["svg"].read_text().split())
        assert drawing.rows == []


def test_the_same_runs_give_the_same_files(runs: list[RunView], tmp_path: Path) -> None:
    panels = [StripPanel("ASTN", runs[1], pictures)]
    made = [
        save_drawing(draw_strips("t", panels, [], shown=3), tmp_path / name) for name in ("a", "b")
    ]
    for ending in ("svg", "png", "csv"):
        assert made[0][ending].read_bytes() == made[1][ending].read_bytes()
