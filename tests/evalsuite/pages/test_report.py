"""The report: complete, self-contained, safe with hostile names, robust to missing parts."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evalsuite.pages.class_views import confusions
from evalsuite.pages.report import build_report
from evalsuite.pages.runs import RunView, run_lines, view_run
from evalsuite.scoring.evaluation import evaluate
from evalsuite.scoring.result import CurveName
from evalsuite.vectors.embeddings import Embeddings, EvaluationError
from tests.evalsuite.embedding_folders import write_parts
from tests.evalsuite.fake_runs import pictures, write_run, write_runs

SECTIONS = [
    "results",
    "retrieval",
    "curves",
    "classes",
    "confusion",
    "domains",
    "training",
    "provenance",
]
HOSTILE = ("<script>alert(1)</script>", '$\\frac{1}$ & "quoted"', "_hidden", "Ω class", "plain")


class Page(HTMLParser):
    """Tags with their attributes, and text by the tag it stands in."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_runs(tmp_path_factory.mktemp("runs"), queries=6, shapes=5)


@pytest.fixture(scope="module")
def runs(folders: list[Path]) -> list[RunView]:
    return [view_run(folder) for folder in folders]


@pytest.fixture(scope="module")
def page(runs: list[RunView], tmp_path_factory: pytest.TempPathFactory) -> Page:
    out = tmp_path_factory.mktemp("out") / "deep" / "report.html"
    assert build_report(runs, out, title="Three runs", pictures=pictures) == out
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]
    return Page(out)


def _built(runs: list[RunView], tmp_path: Path) -> Page:
    return Page(build_report(runs, tmp_path / "report.html", title="Some runs"))


@pytest.mark.slow
def test_page_needs_nothing_from_outside(page: Page) -> None:
    assert not re.search(r"https?://|@import|//cdn", page.source)
    for value in page.values("src") + page.values("href"):
        assert value.startswith(("data:image/", "#"))
    assert page.count("link") == page.count("iframe") == 0
    assert all("#" in target for target in re.findall(r"url\(([^)]*)\)", page.source))


def test_page_has_every_section_and_a_working_contents_list(page: Page) -> None:
    ids = page.values("id")
    assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == SECTIONS
    assert len(ids) == len(set(ids))
    targets = {value[1:] for value in page.values("href") if value.startswith("#")}
    assert targets <= set(ids)
    assert set(SECTIONS) <= targets


def test_page_serves_both_modes_paper_and_small_screens(page: Page) -> None:
    for rule in (
        "prefers-color-scheme: dark",
        "@media print",
        "@media screen and (max-width",
        "tabular-nums",
    ):
        assert rule in page.source
    used = set(re.findall(r"var\(--((?:run|class)-\d+)\)", page.source))
    defined = set(re.findall(r"--((?:run|class)-\d+):", page.source))
    assert used <= defined
    assert "#0200" not in page.source  # every placeholder colour has become a variable


def test_figures_are_described_and_all_there(page: Page) -> None:
    described = [attrs for tag, attrs in page.tags if tag == "svg" and "role" in attrs]
    # PR, two class bars, three matrices, one shared "before" and three "after" maps, A-distance,
    # and loss, rate, time, three terms and four health signals.
    assert len(described) == 1 + 2 + 3 + 4 + 1 + 10
    assert all(attrs["aria-label"] for attrs in described)


def test_strips_mark_right_and_wrong_with_pictures(page: Page) -> None:
    assert page.count("img") == 6 * (1 + 3 * 10)
    assert page.source.count('aria-label="right"') + page.source.count('aria-label="wrong"') == 180
    wrong = page.source.count('class="tile wrong"')
    assert wrong == page.source.count('aria-label="wrong"') > 0
    source = next(value for value in page.values("src") if value.startswith("data:image/jpeg"))
    with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as thumb:
        assert thumb.size == (120, 120)
    assert len(page.source) < 3_000_000


def test_configurations_and_provenance_are_there(page: Page) -> None:
    text = " ".join(page.text)
    assert "backbone: resnet18" in text
    assert "9f31c2a07be48d5560c1f5" in text
    assert "22 min 02 s" in text
    assert "method.alignment_weight" in text


@pytest.mark.slow
def test_same_runs_give_the_same_bytes(runs: list[RunView], tmp_path: Path) -> None:
    written = [
        build_report(runs[:1], tmp_path / name, title="Same").read_bytes() for name in ("a", "b")
    ]
    assert written[0] == written[1]


def test_report_agrees_with_the_evaluator(folders: list[Path], tmp_path: Path) -> None:
    """Cosine, the other protocol, and a query whose class has no shape."""
    copy = shutil.copytree(folders[1], tmp_path / "run")
    run = view_run(copy)
    assert run.queries is not None
    assert run.gallery is not None
    labels = ["no such shape", *run.queries.labels[1:]]
    queries = Embeddings(run.queries.keys, labels, run.queries.vectors)
    write_parts(copy / "embeddings" / "queries", queries)
    scores = evaluate(queries, run.gallery, protocol="shrec", metric="cosine", features="clamp-l2")
    scores.save(copy / "evaluation")
    read = view_run(copy)
    (matrix,) = confusions([read], run_lines([read]))
    assert matrix.right == pytest.approx(scores.headline["NN"])
    built = _built([read], tmp_path)
    assert "1 queries left out" in built.source
    assert "DCG_full_psb" in built.source
    assert f"{scores.headline['mAP']:.3f}" in built.source


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", "dann", classes=HOSTILE, queries=6, shapes=5)
    run = view_run(folder)
    name = '<img src=x onerror="alert(2)">'
    run.info["name"] = run.info["dataset"] = name
    run.config_text = "</pre><script>alert(3)</script>"
    run.log[0]["terms"] = {"</svg><script>alert(4)</script>": 1.0}
    out = build_report([run], tmp_path / "r.html", title="</title><script>alert(5)</script>")
    built = Page(out)
    assert built.count("script") == 1
    assert built.count("img") == 0
    assert "onerror" not in {key for _, attrs in built.tags for key in attrs}
    assert HOSTILE[0] in " ".join(built.text)
    assert HOSTILE[1][:11] in built.source  # drawn as it is, not as a formula


def test_one_run(runs: list[RunView], tmp_path: Path) -> None:
    built = _built([runs[2]], tmp_path)
    assert [attrs["id"] for tag, attrs in built.tags if tag == "section"] == SECTIONS
    assert "to source-only" not in built.source


def test_equal_names_are_told_apart(runs: list[RunView], tmp_path: Path) -> None:
    assert "astn (2)" in " ".join(_built([runs[2], runs[2]], tmp_path).text)


def test_source_only_stands_in_for_missing_initial_embeddings(
    folders: list[Path], tmp_path: Path
) -> None:
    kept = []
    for folder in folders[:2]:
        copy = shutil.copytree(folder, tmp_path / folder.name)
        for path in copy.glob("embeddings/initial-*"):
            shutil.rmtree(path)
        kept.append(view_run(copy))
    built = _built(kept, tmp_path)
    assert "Before training" not in built.source
    assert "state before adaptation" in built.source
    rows = re.findall(
        r"<td>([\d.–]+)</td><td>([\d.]+)</td></tr>",
        built.source.partition("Proxy A-distance</h3>")[2],
    )
    assert rows[0][0] == "–"
    assert rows[1][0] == rows[0][1]


def test_bare_run_still_gives_every_section(folders: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders[1], tmp_path / "bare")
    shutil.rmtree(copy / "embeddings")
    (copy / "log.jsonl").unlink()
    (copy / "evaluation" / "per_query.parquet").unlink()
    built = _built([view_run(copy)], tmp_path)
    assert [attrs["id"] for tag, attrs in built.tags if tag == "section"] == SECTIONS
    assert "No run has a training log." in built.source


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [
        ("run.json", "img2shape train"),
        ("config.yaml", "img2shape train"),
        ("evaluation/metrics.json", "img2shape eval"),
    ],
)
def test_missing_file_is_named_with_its_remedy(
    folders: list[Path], tmp_path: Path, missing: str, remedy: str
) -> None:
    copy = shutil.copytree(folders[0], tmp_path / "run")
    (copy / missing).unlink()
    with pytest.raises(EvaluationError, match=re.escape(missing)) as caught:
        view_run(copy)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unevaluated_or_no_runs_are_refused(folders: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders[0], tmp_path / "run")
    shutil.rmtree(copy / "evaluation")
    with pytest.raises(EvaluationError, match="img2shape eval"):
        view_run(copy)
    with pytest.raises(EvaluationError, match="at least one"):
        build_report([], tmp_path / "r.html", title="")
    with pytest.raises(EvaluationError, match="no run folder"):
        view_run(tmp_path / "nowhere")


def test_log_with_nan_gaps_and_a_torn_last_line(folders: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders[0], tmp_path / "run")
    records = [
        {"step": 0, "loss": 1.0, "terms": {"a": 1.0}, "learning_rate": {"new": 0.1, "old": 0.01}},
        {"step": 1, "loss": float("nan"), "terms": {"a": float("inf")}, "health": {"norm": None}},
        {"step": 2, "loss": 0.5, "terms": {"a": 2.0}, "health": {"norm": "broken"}},
    ]
    lines = [json.dumps(record) for record in records]
    (copy / "log.jsonl").write_text("\n".join([*lines, '{"step": 3, "lo']))
    run = view_run(copy)
    assert len(run.log) == 3
    built = _built([run], tmp_path)
    assert "1 not finite" in built.source
    assert "2 not finite" in built.source
    assert "learning rate, new" in built.source
    (copy / "log.jsonl").write_text("\n".join(["{", *lines]))
    with pytest.raises(EvaluationError, match="record 1"):
        view_run(copy)


def test_rows_that_are_not_finite_are_left_out(folders: list[Path], tmp_path: Path) -> None:
    copy = shutil.copytree(folders[0], tmp_path / "run")
    run = view_run(copy)
    assert run.queries is not None
    vectors = run.queries.vectors.copy()
    vectors[3] = np.nan
    broken = Embeddings(run.queries.keys, run.queries.labels, vectors)
    write_parts(copy / "embeddings" / "queries", broken)
    read = view_run(copy)
    assert read.queries is not None
    assert len(read.queries.keys) == len(run.queries.keys) - 1
    assert 'id="confusion"' in _built([read], tmp_path).source


@pytest.mark.slow
def test_many_classes_fit(tmp_path: Path) -> None:
    classes = [f"class {index:02d}" for index in range(45)]
    run = view_run(write_run(tmp_path / "x", "astn", classes=classes, queries=2, shapes=4))
    built = _built([run], tmp_path)
    assert "20 best and the 20 worst of 45" in built.source
    assert "35 other classes" in built.source


def test_broken_pictures_fall_back_to_words(runs: list[RunView], tmp_path: Path) -> None:
    out = build_report(
        runs[:1],
        tmp_path / "r.html",
        title="",
        pictures=lambda keys: dict.fromkeys(keys, b"not a picture"),
    )
    assert Page(out).count("img") == 0


def test_origins_stand_under_pictures_and_keys_where_none_is_known(
    runs: list[RunView], tmp_path: Path
) -> None:
    gallery = runs[0].gallery
    assert gallery is not None
    origins = {key: f"meshes/<{key}>.obj" for key in gallery.keys}
    out = build_report(runs[:1], tmp_path / "r.html", title="", origins=origins)
    text = out.read_text()
    named = [key for key in gallery.keys if f"meshes/&lt;{key}&gt;.obj</small>" in text]
    assert named
    assert not any(f">{key}</small>" in text for key in named)
    queries = runs[0].queries
    assert queries is not None
    assert any(f">{key}</small>" in text for key in queries.keys)


def test_the_curve_is_pooled_or_that_of_shrec(runs: list[RunView], tmp_path: Path) -> None:
    """The table under the curve has its precision at the recalls of the table's head."""
    run = replace(runs[0], initial_queries=None)
    assert run.queries is not None
    scored = [replace(run, evaluation=evaluate(run.queries, run.gallery))]

    def shown(curve: CurveName) -> list[list[str]]:
        out = build_report(scored, tmp_path / f"{curve}.html", title="t", curve=curve)
        part = Page(out).source.partition('<section id="curves">')[2].partition("</section>")[0]
        assert ("20 recall levels" in part) == (curve == "shrec")
        body = part.partition("<tbody>")[2].partition("</tbody>")[0]
        return [re.findall("<td>([^<]*)</td>", row) for row in body.split("<tr>")[1:]]

    levels = [j / 20 for j in range(1, 21)]
    known = dict(zip(levels, scored[0].evaluation.curves.interpolated.tolist(), strict=True))
    wanted = [known[0.1], known[0.25], known[0.5], known[0.75]]
    assert shown("shrec") == [["–" if math.isnan(v) else f"{v:.3f}" for v in wanted]]
    assert shown("pooled") != shown("shrec")
    with pytest.raises(EvaluationError, match="curve='other': expected one of pooled, shrec"):
        shown("other")  # pyright: ignore[reportArgumentType]
