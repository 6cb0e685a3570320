"""The main job through the command line: train, evaluate, report; in one process and in several."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cluster.training import train_run
from tests.command import CONFIGS, call, outcome, process, small, wait_until
from trainer.config import RunConfig, load_config
from trainer.runs.checkpoint import newest_checkpoint

HEADLINE = ("NN", "FT", "ST", "F", "E", "DCG", "ANMRR", "AUC", "mAP")
METHODS = ("source-only", "astn")
EXACT = {"training__precision": "float64", "training__batch": 9, "training__steps": 4}


def exact_config(data: Path) -> RunConfig:
    return load_config(CONFIGS / "astn.yaml", small(data, **EXACT))


def parameters(run: Path) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(run / "checkpoints")
    assert found is not None
    return found.state["method"]


def assert_same_parameters(run: Path, other: Path) -> None:
    expected = parameters(other)
    for name, value in parameters(run).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-8, atol=1e-10, err_msg=name)


@pytest.fixture(scope="module")
def runs(benchmark, tmp_path_factory) -> list[Path]:
    """Two trained runs, of which nothing is evaluated yet."""
    out = tmp_path_factory.mktemp("runs")
    for method in METHODS:
        config = load_config(CONFIGS / f"{method}.yaml", small(benchmark))
        train_run(config, out / method, workers=0)
    return [out / method for method in METHODS]


@pytest.fixture(scope="module")
def exact(benchmark, tmp_path_factory) -> Path:
    """A run in float64 in this process: what several processes must reproduce."""
    out = tmp_path_factory.mktemp("exact") / "run"
    train_run(exact_config(benchmark), out, workers=0)
    return out


def test_train_speaks_on_stderr_and_writes_a_whole_run_folder(benchmark, tmp_path, capfd):
    run = tmp_path / "run"
    done = call(capfd, "train", CONFIGS / "astn.yaml", *small(benchmark), "--out", run)
    assert (done.code, done.out) == (0, "")
    assert f"trained: {run}" in done.err.splitlines()  # a long path is not broken over lines
    assert f"next: img2shape eval {run}" in done.err
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "finished"
    assert facts["method"] == "astn"
    assert {"parameters", "versions", "timings", "step_timings"} <= facts.keys()
    shown = [line.split() for line in done.err.splitlines()]
    assert ["total", f"{facts['timings']['total'] - facts['timings']['start']:.2f}"] in shown
    assert any(line[:2] == ["data", "wait"] and line[-1] == "%" for line in shown)
    assert "6 steps, " in done.err
    assert [json.loads(s)["step"] for s in (run / "log.jsonl").read_text().splitlines()] == [
        *range(6)
    ]
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-00000003",
        "step-00000006",
    ]
    assert not list(run.rglob(".*"))


def test_training_a_finished_run_again_does_nothing_and_says_so(benchmark, runs, capfd):
    run = runs[1]
    files = {p: p.stat().st_mtime_ns for p in [run / "log.jsonl", *run.glob("checkpoints/*/*")]}
    start = time.monotonic()
    done = call(capfd, "train", CONFIGS / "astn.yaml", *small(benchmark), "--out", run)
    assert time.monotonic() - start < 5
    assert (done.code, done.out) == (0, "")
    assert "finished already, nothing to do" in done.err
    assert {p: p.stat().st_mtime_ns for p in files} == files


def test_numbers_do_not_depend_on_the_shards_and_embeddings_are_kept(runs, capfd):
    run = runs[0]
    first = call(capfd, "eval", run, "--json")
    assert "embedding queries" in first.err
    vectors = run / "embeddings" / "queries" / "embeddings.json"
    made = vectors.stat().st_mtime_ns
    for shards in (2, 3):
        again = call(capfd, "eval", run, "--shards", shards, "--json")
        assert again.json == first.json
        assert "embedding" not in again.err
    assert vectors.stat().st_mtime_ns == made
    assert json.loads((run / "evaluation" / "metrics.json").read_text()) == first.json
    assert pq.read_table(run / "evaluation" / "per_query.parquet").num_rows == 100
    assert (first.json["n_queries"], first.json["n_gallery"]) == (100, 75)
    assert all(0 <= first.json[name] <= 1 for name in HEADLINE)
    assert first.json["mAP"] > 0.2  # five classes: chance would be about that


def test_the_protocols_differ_where_they_are_defined_to(runs, capfd):
    mi3dor, shrec = (
        call(capfd, "eval", runs[1], "--protocol", p, "--json").json for p in ("mi3dor", "shrec")
    )
    assert (mi3dor["protocol"], shrec["protocol"]) == ("mi3dor", "shrec")
    for name in ("NN", "FT", "E", "mAP"):
        assert mi3dor[name] == shrec[name]
    assert shrec["ST"] >= mi3dor["ST"]
    assert shrec["DCG"] != mi3dor["DCG"]
    assert mi3dor["variants"] == shrec["variants"]


def test_a_checkpoint_is_evaluated_beside_its_run(runs, capfd):
    run = runs[0]
    whole = call(capfd, "eval", run, "--json").json
    before = (run / "evaluation" / "metrics.json").stat().st_mtime_ns
    last = call(capfd, "eval", run / "checkpoints" / "step-00000006", "--json").json
    half = call(capfd, "eval", run / "checkpoints" / "step-00000003", "--json").json
    assert last == {**whole, "selection": "given"}  # how the checkpoint was chosen
    assert half["variants"] != whole["variants"]
    assert (run / "evaluation" / "metrics.json").stat().st_mtime_ns == before
    written = json.loads((run / "at-00000003" / "evaluation" / "metrics.json").read_text())
    assert written == half


def test_the_table_for_people_shows_the_numbers_of_the_json(runs, capfd):
    numbers = call(capfd, "eval", runs[0], "--json").json
    table = call(capfd, "eval", runs[0]).out
    assert "100 queries" in table
    assert f"{numbers['mAP']:.3f}" in table
    assert all(name in table for name in HEADLINE)


def test_metrics_of_the_runs_own_files_and_of_plain_parquet(runs, tmp_path, capfd):
    """The numbers come from the files alone: another writer, another type, the same values."""
    run = runs[0]
    numbers = call(capfd, "eval", run, "--json").json
    for name in ("selection", "step", "score", "gallery_fingerprint"):
        del numbers[name]  # of the checkpoint, of the keys
    files = [run / "embeddings" / name for name in ("queries", "gallery")]
    plain = []
    for file in files:
        table = pa.concat_tables(map(pq.read_table, sorted(file.glob("part-*"))))
        vectors = pa.array(table.column("embedding").to_pylist(), type=pa.list_(pa.float64()))
        columns = {"label": table.column("label"), "embedding": vectors, "key": table.column("key")}
        plain.append(tmp_path / f"{file.name}.parquet")
        pq.write_table(pa.table(columns), plain[-1])
    for queries, gallery in (files, plain):
        options = ["--queries", queries, "--gallery", gallery, "--metric", numbers["metric"]]
        assert call(capfd, "metrics", *options, "--shards", 2, "--json").json == numbers
    clamped = call(capfd, "metrics", *options, "--features", "clamp-l2", "--json").json
    assert clamped["features"] == "clamp-l2"
    assert "mAP" in call(capfd, "metrics", *options).out


def test_the_report_is_one_page_that_fetches_nothing(runs, tmp_path, capfd):
    for run in runs:
        assert call(capfd, "eval", run, "--json").code == 0
    page = tmp_path / "pages" / "report.html"
    done = call(capfd, "report", *runs, "--out", page)
    assert (done.code, done.out) == (0, "")
    assert f"report: {page}" in done.err
    assert [p.name for p in page.parent.iterdir()] == ["report.html"]
    text = page.read_text()
    assert all(run.name in text for run in runs)
    fetched = (
        r"""(?:src|srcset|data|action)\s*=\s*["']?\s*(?:https?:)?//|url\(["']?(?:https?:)?//"""
    )
    assert not re.search(fetched, text)
    assert not re.search(r"<link[^>]+href|@import|<iframe|<script[^>]+src", text)
    assert text.count("data:image/") > 10  # pictures of queries and shapes


def test_model_needs_no_data(tmp_path, capfd):
    absent = small(tmp_path / "absent", data__num_classes=21)
    result = call(capfd, "model", CONFIGS / "source-only.yaml", *absent, "--json").json
    assert {"parameters", "multiply_adds", "layers"} <= result.keys()
    assert result["parameters"] == sum(layer["parameters"] for layer in result["layers"])
    assert result["multiply_adds"] == sum(layer["multiply_adds"] for layer in result["layers"])
    shown = call(capfd, "model", CONFIGS / "source-only.yaml", *absent).out
    assert f"{result['parameters']:,}" in shown


def test_torchrun_trains_the_same_run(benchmark, exact, tmp_path):
    run = tmp_path / "run"
    train = ["-m", "cluster", "train", CONFIGS / "astn.yaml", *small(benchmark, **EXACT)]
    torchrun = ["--standalone", "--nproc-per-node", 2, *train, "--out", run]
    done = outcome(process(*torchrun, module="torch.distributed.run"))
    assert done.code == 0, done.err
    assert done.err.count("trained: ") == 1  # one rank speaks
    assert json.loads((run / "run.json").read_text())["world_size"] == 2
    assert_same_parameters(run, exact)


@pytest.fixture(scope="module")
def on_ray(benchmark, ray_cluster, tmp_path_factory) -> Path:
    """The run of ``exact`` on two Ray Train workers."""
    out = tmp_path_factory.mktemp("ray") / "run"
    train_run(exact_config(benchmark), out, workers=2)
    return out


@pytest.mark.ray
def test_ray_workers_train_the_same_run(exact, on_ray, capfd):
    facts = json.loads((on_ray / "run.json").read_text())
    assert (facts["status"], facts["world_size"]) == ("finished", 2)
    assert len((on_ray / "log.jsonl").read_text().splitlines()) == 4
    assert_same_parameters(on_ray, exact)
    theirs, ours = (call(capfd, "eval", run, "--json").json for run in (on_ray, exact))
    for name in HEADLINE:
        assert theirs[name] == pytest.approx(ours[name], abs=5e-4), name


@pytest.mark.ray
def test_a_gallery_in_ray_actors_gives_the_same_bits(runs, ray_cluster, capfd):
    options = ["eval", runs[1], "--shards", 2, "--json"]
    assert call(capfd, *options, "--actors").json == call(capfd, *options).json


@pytest.mark.ray
def test_a_users_error_inside_a_ray_worker_is_the_same_line(
    benchmark, ray_cluster, tmp_path, capfd
):
    train = ["train", CONFIGS / "source-only.yaml", *small(benchmark)]
    train += ["optimizer.learning_rate=1e30", "optimizer.kind=sgd"]
    told = call(capfd, *train, "--workers", 1, "--out", tmp_path / "ray").complaint
    assert told == call(capfd, *train, "--out", tmp_path / "here").complaint
    assert "optimizer.learning_rate" in told
    assert not (tmp_path / "ray" / "error.json").exists()


@pytest.mark.ray
def test_ctrl_c_lets_ray_workers_save(benchmark, tmp_path):
    settings = {"training__steps": 5000, "training__checkpoint_every": 5000}
    run = tmp_path / "run"
    running = process(
        "train", CONFIGS / "astn.yaml", *small(benchmark, **settings), "--workers", 2, "--out", run
    )
    log = run / "log.jsonl"
    wait_until(lambda: log.exists() and log.read_text().count("\n") > 2, running)
    os.killpg(running.pid, signal.SIGINT)
    stopped = outcome(running)
    assert stopped.code == 130, stopped.err
    assert "Traceback" not in stopped.err
    kept = newest_checkpoint(run / "checkpoints")
    assert kept is not None
    assert 2 < kept.step < 5000
    assert not (run / "stop").exists()
