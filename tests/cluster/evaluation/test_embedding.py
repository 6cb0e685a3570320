"""Extraction of embeddings by the command line: any number of workers, stopped and continued."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from cluster.evaluation import extractor
from cluster.evaluation.extraction import configured_stream, embed
from cluster.evaluation.extractor import Extractor
from cluster.evaluation.jobs import evaluate_run
from cluster.training import train_run
from evalsuite.vectors.embedding_parts import is_finished, open_parts
from evalsuite.vectors.reading import read_embeddings
from tests.command import CONFIGS, call, outcome, process, small, wait_until
from tests.faults.job import descendants
from trainer.config import load_config
from trainer.extraction.trained_run import extract, load_run
from trainer.inputs.open_data import OpenData

QUERIES, GALLERY, BATCH = 100, 75, 4


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("embedding") / "run"
    overrides = small(benchmark, training__steps=1, evaluation__batch=BATCH)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), out, workers=0)
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory) -> Path:
    """Queries and gallery embedded in one go in this process."""
    out = tmp_path_factory.mktemp("whole")
    loaded = load_run(trained)
    embed(loaded, out, [configured_stream(loaded, side) for side in ("queries", "gallery")])
    return out


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_every_item_once_with_the_vectors_of_a_plain_walk(trained, whole):
    loaded = load_run(trained)
    for side, count in (("queries", QUERIES), ("gallery", GALLERY)):
        source = OpenData(loaded.config).evaluation_source(getattr(loaded.config.data, side))
        keys, labels, vectors = extract(loaded.method, source, batch=BATCH, precision="float32")
        parts = open_parts(whole / side)
        assert len(parts) == count
        assert len(parts.parts) == -(-count // BATCH)
        assert (parts.keys, parts.labels) == (keys, labels)
        assert parts.read().vectors.tobytes() == vectors.tobytes()


def test_what_the_command_embeds_the_evaluation_finds(run, capfd):
    done = call(capfd, "embed", run, "--json")
    assert "embedding queries" in done.err
    assert "embedding gallery" in done.err
    for side, count in (("queries", QUERIES), ("gallery", GALLERY)):
        told = done.json["streams"][side]
        assert (told["rows"], told["made"], told["width"]) == (count, count, 16)
        assert told["folder"] == str(run / "embeddings" / side)
        assert told["dtype"] == "float32"
        assert told["fingerprint"] == open_parts(run / "embeddings" / side).fingerprint
    before = contents(run / "embeddings")
    again = call(capfd, "embed", run, "--json")
    assert [told["made"] for told in again.json["streams"].values()] == [0, 0]
    scored = call(capfd, "eval", run, "--json")
    assert "embedding" not in scored.err
    assert contents(run / "embeddings") == before
    folders = [f"--{side}={run / 'embeddings' / side}" for side in ("queries", "gallery")]
    options = [f"--{name}={scored.json[name]}" for name in ("features", "metric", "protocol")]
    of_files = call(capfd, "metrics", *folders, *options, "--json").json
    assert of_files["mAP"] == scored.json["mAP"]


def test_other_splits_and_dtypes_lie_beside_what_is_scored(run, whole, tmp_path, capfd):
    done = call(capfd, "embed", run, "--what", "queries", "--split", "train", "--json")
    assert list(done.json["streams"]) == ["queries-train"]
    told = done.json["streams"]["queries-train"]
    assert told["rows"] not in (0, QUERIES)
    keys = open_parts(run / "embeddings" / "queries-train").keys
    assert not set(keys) & set(open_parts(whole / "queries").keys)

    half = call(capfd, "embed", run, "--what=gallery", "--dtype=float16", "--json").json
    folder = run / "embeddings" / "gallery-float16"
    assert half["streams"]["gallery-float16"]["folder"] == str(folder)
    full = read_embeddings(whole / "gallery").vectors
    found = read_embeddings(folder).vectors
    np.testing.assert_array_equal(found, full.astype(np.float16).astype(np.float32))
    assert not (run / "embeddings" / "gallery").exists()

    out = tmp_path / "elsewhere"
    given = run / "checkpoints" / "step-00000001"
    assert call(capfd, "embed", given, "--out", out).code == 0
    assert contents(out) == contents(whole)


def test_stopped_and_continued_it_is_the_same(run, whole, monkeypatch, capfd):
    make, left = Extractor.make, iter(range(3))

    def stopping(*args: object, **options: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return make(*args, **options)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(Extractor, "make", stopping)
        stopped = call(capfd, "embed", run)
    assert (stopped.code, stopped.err.splitlines()[-1]) == (
        130,
        "img2shape: interrupted; the same command, given again, continues",
    )
    folder = run / "embeddings" / "queries"
    assert not is_finished(folder)
    told = call(capfd, "metrics", f"--queries={folder}", f"--gallery={folder}").complaint
    assert f"{folder}: unfinished" in told
    assert "extract these embeddings again" in told
    assert not (run / "embeddings" / "gallery").exists()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert len(kept) == 3

    done = call(capfd, "embed", run, "--json")
    assert f"queries: continuing, {3 * BATCH} of {QUERIES} were embedded already" in done.err
    assert done.json["streams"]["queries"]["made"] == QUERIES - 3 * BATCH
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(run / "embeddings") == contents(whole)


def test_values_beyond_half_precision_name_the_item_and_the_remedy(run, monkeypatch, capfd):
    def far(*args: object, **options: object) -> object:
        keys, labels, vectors = extract(*args, **options)  # pyright: ignore[reportArgumentType]
        return keys, labels, vectors + 1e6

    monkeypatch.setattr(extractor, "extract", far)
    told = call(capfd, "embed", run, "--dtype", "float16", "--what", "gallery").complaint
    loaded = load_run(run)
    source = OpenData(loaded.config).evaluation_source(loaded.config.data.gallery)
    assert repr(source.manifest.keys[source.rows[0]]) in told
    assert "write them with dtype float32" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--what", "shapes"], "--what shapes: expected one of queries, gallery, both"),
        (["--split", "tests"], "--split tests: expected one of train, val, test, all"),
        (["--dtype", "float8"], "--dtype float8: expected one of float32, float16"),
        (["--workers", "-1"], "--workers"),
        (["--select", "oracle"], "no checkpoint has a score"),
        (["--select", "best"], "no selection 'best'"),
    ],
)
def test_bad_options_are_one_line(run, options, told, capfd):
    assert told in call(capfd, "embed", run, *options).complaint
    assert not (run / "embeddings").exists()


def test_bad_runs_and_folders_are_one_line(run, tmp_path, capfd):
    assert "neither a run folder" in call(capfd, "embed", tmp_path / "absent").complaint
    (tmp_path / "file").write_text("")
    told = call(capfd, "embed", run, "--out", tmp_path / "file").complaint
    assert str(tmp_path / "file" / "queries") in told


@pytest.mark.ray
def test_any_number_of_workers_gives_the_same_files(run, whole, ray_cluster, tmp_path, capfd):
    """Three are more than the cluster has CPUs for."""
    for workers in (1, 3):
        out = tmp_path / str(workers)
        done = call(capfd, "embed", run, "--workers", workers, "--out", out, "--json")
        made = {name: told["made"] for name, told in done.json["streams"].items()}
        assert made == {"queries": QUERIES, "gallery": GALLERY}
        assert contents(out) == contents(whole)
    full = tmp_path / "full"
    full.mkdir()
    (full / "queries").write_text("a file where the folder should be")
    told = call(capfd, "embed", run, "--workers", 1, "--out", full).complaint
    assert str(full / "queries") in told


@pytest.mark.ray
def test_a_killed_worker_is_replaced_and_finished_parts_stay(run, whole, ray_cluster):
    expected = json.loads(json.dumps(_scored_from(run, whole)))
    folder = run / "embeddings" / "queries"
    finished: dict[Path, int] = {}

    def kill() -> None:
        for _ in range(12_000):
            parts = sorted(folder.glob("part-*"))
            commands = descendants(os.getpid()).items()
            workers = [pid for pid, command in commands if "_ExtractionActor" in command]
            if len(parts) >= 3 and len(workers) == 1:
                finished.update({path: path.stat().st_mtime_ns for path in parts})
                os.kill(workers[0], signal.SIGKILL)
                return
            time.sleep(0.005)

    killer = threading.Thread(target=kill)
    killer.start()
    result = evaluate_run(run, shards=1, workers=1)
    killer.join()
    assert 3 <= len(finished) < QUERIES // BATCH
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert contents(run / "embeddings") == contents(whole)
    assert result == expected
    assert evaluate_run(run, shards=2, actors=True) == expected  # which read the parts themselves


@pytest.mark.ray
def test_sigterm_ends_the_workers_and_what_is_finished_stays(run, whole, capfd):
    folder = run / "embeddings" / "queries"
    running = process("embed", run, "--workers", 1)
    wait_until(lambda: any(folder.glob("part-*")), running)
    running.terminate()
    ended = outcome(running)
    assert ended.code == 130
    assert ended.err.splitlines()[-1].startswith("img2shape: interrupted; the same command")
    assert descendants(running.pid) == {}
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("part-*")}
    assert call(capfd, "embed", run).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert contents(run / "embeddings") == contents(whole)


def _scored_from(run: Path, whole: Path) -> dict[str, object]:
    """What the evaluation says of embeddings that were made without workers."""
    shutil.copytree(whole, run / "embeddings")
    result = evaluate_run(run, shards=1)
    shutil.rmtree(run / "embeddings")
    return result
