"""`img2shape compare` and `img2shape eval --a-distance`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cluster.training import train_run
from evalsuite.scoring.evaluation import evaluate
from evalsuite.scoring.options import HEADLINES
from evalsuite.scoring.query_scores import items_fingerprint, read_scores
from evalsuite.scoring.result import read_evaluation
from evalsuite.search.exact import searched_space
from evalsuite.statistics.bootstrap import intervals
from evalsuite.statistics.comparison import compare, compare_classes
from evalsuite.statistics.domain_distance import proxy_a_distance
from evalsuite.vectors.embeddings import Embeddings
from evalsuite.vectors.reading import read_embeddings
from tests.command import CONFIGS, call, small
from tests.evalsuite.statistics.test_compare import cloud
from trainer.config import load_config


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Three evaluated folders: bad, better, and better under another search."""
    root = tmp_path_factory.mktemp("compare")
    for name, noise, options in (
        ("bad", 1.5, {}),
        ("better", 0.8, {}),
        ("cosine", 0.8, {"metric": "cosine"}),
    ):
        found = evaluate(
            cloud("query", 60, noise=noise), cloud("shape", 90, noise=noise), **options
        )
        found.save(root / name / "evaluation")
    return [root / name for name in ("bad", "better", "cosine")]


def test_json_holds_what_the_library_says(folders, capfd):
    args = ["--resamples", 300, "--seed", 7, "--confidence", 0.9, "--per-class", "--json"]
    found = call(capfd, "compare", *folders, *args).json
    chosen = {"resamples": 300, "seed": 7, "confidence": 0.9}
    assert {name: found[name] for name in chosen} == chosen
    assert found["runs"] == ["bad", "better", "cosine"]
    assert [(p["first"], p["second"]) for p in found["comparisons"]] == [
        ("bad", "better"),
        ("bad", "cosine"),
    ]
    bad, better, _ = map(read_scores, folders)
    expected = compare(bad, better, **chosen).metrics
    pair = found["comparisons"][0]
    assert set(pair["metrics"]) == set(HEADLINES)
    for name, values in pair["metrics"].items():
        assert values["difference"] == values["second"] - values["first"]
        assert values["low"] == expected[name].low
        assert values["share_above_zero"] == expected[name].share_above_zero
    assert pair["metrics"]["mAP"]["better"] == pair["metrics"]["ANMRR"]["better"] == "second"
    assert pair["metrics"]["ANMRR"]["high"] < 0
    for row, one in zip(pair["per_class"], compare_classes(bad, better, **chosen), strict=True):
        assert (row["label"], row["n_queries"]) == (one.label, one.n_queries)
        assert row["metrics"]["FT"]["high"] == one.metrics["FT"].high
    assert pair["notes"] == []
    assert found["comparisons"][1]["notes"] == [
        "metric differs: euclidean in bad, cosine in cosine"
    ]


def test_tables_show_the_numbers_and_what_they_are_about(folders, capfd):
    done = call(capfd, "compare", *folders[:2], "--per-class")
    assert done.code == 0, done.err
    pair = call(capfd, "compare", *folders[:2], "--per-class", "--json").json["comparisons"][0]
    lines = [line.split() for line in done.out.splitlines()]
    for row in (pair, *pair["per_class"]):
        found = row["metrics"]["mAP"]
        words = [
            *("mAP", f"{found['first']:.3f}", f"{found['second']:.3f}"),
            *(f"{found['difference']:+.3f}", f"[{found['low']:+.3f},", f"{found['high']:+.3f}]"),
            *(f"{100 * found['share_above_zero']:.1f}", "%"),
            {"first": "bad", "second": "better", None: "–"}[found["better"]],
        ]
        assert words in lines
    assert "95 % interval" in done.out
    assert "class-3 (15)" in done.out
    assert "say nothing about other training seeds" in " ".join(done.out.split())
    alike = call(capfd, "compare", folders[0], folders[0])
    assert alike.code == 0
    assert ["mAP", *alike.out.split("mAP")[2].split()[:2], "+0.000"] == [
        "mAP",
        *2 * [f"{pair['metrics']['mAP']['first']:.3f}"],
        "+0.000",
    ]
    assert alike.out.count("–") == len(HEADLINES)  # better than itself in nothing


def test_folders_of_one_name_are_told_apart_by_the_folder_above(folders, tmp_path, capfd):
    pairs = []
    for parent, folder in zip(("monday", "tuesday"), folders, strict=False):
        (tmp_path / parent).mkdir()
        pairs.append(tmp_path / parent / "run")
        pairs[-1].symlink_to(tmp_path / parent / "kept")
        shutil.copytree(folder, tmp_path / parent / "kept")
    found = call(capfd, "compare", *pairs, "--resamples", 5, "--json").json
    assert found["runs"] == ["monday/kept", "tuesday/kept"]


def test_one_run_alone_gets_its_intervals(folders, tmp_path, capfd):
    found = call(capfd, "compare", folders[0], "--resamples", 200, "--json").json
    assert found["comparisons"] == []
    expected = intervals(read_scores(folders[0]), resamples=200)
    assert set(expected) == set(HEADLINES)
    for name, value in expected.items():
        assert found["intervals"][0][name] == [value.low, value.high]
        assert found["headlines"][0][name] == value.value
    table = call(capfd, "compare", folders[0], "--resamples", 200).out
    auc = expected["AUC"]
    assert f"{auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}]" in table
    older = tmp_path / "older"
    shutil.copytree(folders[0], older)
    kept = older / "evaluation" / "per_query.parquet"
    pq.write_table(pq.read_table(kept).drop_columns(["curve_hits"]), kept)
    table = " ".join(call(capfd, "compare", older).out.split())
    assert "AUC –" in table
    assert "older: AUC is left out: no column curve_hits" in table


def test_what_cannot_be_compared_is_one_line(folders, tmp_path, capfd):
    shrec = evaluate(cloud("query", 60, noise=1), cloud("shape", 90, noise=1), protocol="shrec")
    shrec.save(tmp_path / "shrec" / "evaluation")
    told = call(capfd, "compare", folders[0], tmp_path / "shrec").complaint
    assert "bad and shrec were evaluated with protocol mi3dor and shrec" in told
    told = call(capfd, "compare", folders[0], tmp_path / "none").complaint
    assert f"run `img2shape eval {tmp_path / 'none'}` first" in told
    told = call(capfd, "compare", *folders[:2], "--confidence", 1.5).complaint
    assert "confidence=1.5: give a number between 0 and 1" in told


def read_side(run: Path, side: str) -> Embeddings:
    return read_embeddings(run / "embeddings" / side)


def test_two_trained_runs_and_their_a_distance(benchmark, tmp_path, capfd):
    runs = [tmp_path / name for name in ("first", "second")]
    for seed, run in enumerate(runs):
        overrides = small(benchmark, training__steps=2, training__seed=seed)
        train_run(load_config(CONFIGS / "source-only.yaml", overrides), run, workers=0)
    result = call(capfd, "eval", runs[0], "--a-distance", "--json").json
    assert json.loads((runs[0] / "evaluation" / "metrics.json").read_text()) == result
    gallery = read_side(runs[0], "gallery")
    options = read_evaluation(runs[0]).options
    spaces = [searched_space(side, options) for side in (read_side(runs[0], "queries"), gallery)]
    assert result["a_distance"] == proxy_a_distance(*spaces)
    assert 0 <= result["a_distance"] <= 2
    backwards = items_fingerprint(gallery.keys[::-1], gallery.labels[::-1])
    assert result["gallery_fingerprint"] == backwards
    shown = call(capfd, "eval", runs[1], "--a-distance").out
    assert "A-distance of queries and shapes: " in shown
    assert "a_distance" not in call(capfd, "eval", runs[0], "--json").json
    found = call(capfd, "compare", *runs, "--json").json["comparisons"][0]
    assert set(found["metrics"]) == set(HEADLINES)
    for name, values in found["metrics"].items():
        assert values["first"] == result[name]
