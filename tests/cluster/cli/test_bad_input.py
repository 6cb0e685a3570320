"""Bad input: exit code 2, one line that names the file or option and the remedy, nothing spoilt."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.evaluation.jobs import evaluate_run
from cluster.training import train_run
from dataio.datasets import mi3dor
from dataio.findings import Findings
from dataio.packing.records_to_shards import pack
from dataio.shards.manifest import write_manifest
from dataio.shards.opening import load_manifest
from dataio.shards.reading import content_member
from tests.command import CONFIGS, call, small
from trainer.config import load_config


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory) -> Path:
    """A finished and evaluated run of three steps."""
    out = tmp_path_factory.mktemp("trained") / "run"
    train_run(load_config(CONFIGS / "source-only.yaml", short(benchmark)), out, workers=0)
    evaluate_run(out, shards=1)
    return out


def short(data: Path, **overrides: object) -> list[str]:
    return small(data, training__steps=3, training__checkpoint_every=2, **overrides)


@pytest.fixture
def data(benchmark, tmp_path) -> Path:
    """A copy of the benchmark to damage."""
    return shutil.copytree(
        benchmark, tmp_path / "data", ignore=shutil.ignore_patterns("raw"), dirs_exist_ok=True
    )


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A copy of the run to damage."""
    return shutil.copytree(trained, tmp_path / "run")


# ---- data sets


def no_data_set(data: Path) -> None:
    (data / "manifest.parquet").unlink()


def truncated_manifest(data: Path) -> None:
    content = (data / "manifest.parquet").read_bytes()
    (data / "manifest.parquet").write_bytes(content[: len(content) // 2])


def foreign_manifest(data: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), data / "manifest.parquet")


def manifest_of_another_version(data: Path) -> None:
    table = pq.read_table(data / "manifest.parquet")
    header = json.loads(table.schema.metadata[b"img2shape"])
    changed = table.replace_schema_metadata(
        {"img2shape": json.dumps({**header, "schema_version": 99})}
    )
    pq.write_table(changed, data / "manifest.parquet")


def manifest_without_a_column(data: Path) -> None:
    table = pq.read_table(data / "manifest.parquet")
    pq.write_table(table.drop_columns(["members"]), data / "manifest.parquet")


def manifest_with_other_labels(data: Path) -> None:
    table = pq.read_table(data / "manifest.parquet")
    column = table.schema.get_field_index("label")
    swapped = pa.array(table.column("label").to_pylist()[::-1])
    pq.write_table(table.set_column(column, "label", swapped), data / "manifest.parquet")


def missing_shard(data: Path) -> None:
    (data / "image-train-000000.tar").unlink()


def empty_shard(data: Path) -> None:
    (data / "image-train-000000.tar").write_bytes(b"")


def truncated_shard(data: Path) -> None:
    with (data / "image-train-000000.tar").open("r+b") as file:
        file.truncate(100_000)


def shards_of_another_set(data: Path) -> None:
    """The same names and sizes, but every tar is moved by one member's header."""
    shard = data / "image-train-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[512:] + bytes(512))


def flipped_bytes(data: Path) -> None:
    """One byte in the middle of every training picture: most still decode, to wrong pixels."""
    manifest = load_manifest(data)
    shard = data / "image-train-000000.tar"
    content = bytearray(shard.read_bytes())
    for row in manifest.select("image", "train"):
        member = content_member(manifest, int(row))
        content[member.offset + member.size // 2] ^= 0x55
    shard.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (no_data_set, ["data make procedural --out", "data.root=FOLDER"]),
        (truncated_manifest, ["manifest.parquet", "not a readable manifest", "pack again"]),
        (foreign_manifest, ["manifest.parquet", "not a readable manifest", "pack again"]),
        (manifest_of_another_version, ["manifest.parquet", "version 99", "pack again"]),
        (manifest_without_a_column, ["manifest.parquet", "members", "pack again"]),
        (manifest_with_other_labels, ["manifest.parquet", "do not match", "pack again"]),
        (missing_shard, ["image-train-000000.tar", "missing", "copy it again"]),
        (empty_shard, ["image-train-000000.tar", "0 bytes", "copy it again"]),
        (truncated_shard, ["image-train-000000.tar", "100000 bytes", "copy it again"]),
        (shards_of_another_set, ["image-train-000000.tar", "has changed", "copy it again"]),
        (flipped_bytes, ["image-train-000000.tar", "other content", "copy the shard again"]),
    ],
)
def test_a_damaged_data_set(damage: Callable[[Path], None], told, data, tmp_path, capfd):
    damage(data)
    out = tmp_path / "run"
    done = call(capfd, "train", CONFIGS / "source-only.yaml", *short(data), "--out", out)
    assert all(word in done.complaint for word in [str(data), *told]), done.complaint
    assert not list(out.glob("checkpoints/*"))
    if damage not in (shards_of_another_set, flipped_bytes):  # these show once samples are read
        assert not out.exists()


@pytest.mark.parametrize(
    ("classes", "told"),
    [
        ("[bottle,chair,sofa,stool]", ["data.classes", "vase", "data.source_images", "add them"]),
        ("[bottle,chair,sofa,stool,vase,botle]", ["data.classes", "'botle'", "'bottle'"]),
        ("[bottle,chair,sofa,stool,vase,vase]", ["data.classes", "twice"]),
    ],
)
def test_classes_that_are_not_those_of_the_data(classes, told, benchmark, tmp_path, capfd):
    overrides = short(benchmark, data__classes=classes)
    out = tmp_path / "run"
    done = call(capfd, "train", CONFIGS / "source-only.yaml", *overrides, "--out", out)
    assert all(word in done.complaint for word in told), done.complaint
    assert not out.exists()


def test_a_split_that_the_data_set_lacks(benchmark, tmp_path, capfd):
    raw, data, out = benchmark / "raw", tmp_path / "data", tmp_path / "run"
    records = mi3dor.records(raw, mi3dor.Options(name="half"), Findings("half"))
    kept = [r for r in records if (r.stream, r.split) in (("sketch", "test"), ("image", "test"))]
    pack(kept, data, dataset="half")
    overrides = short(data, data__source_images__stream="sketch")
    done = call(capfd, "train", CONFIGS / "source-only.yaml", *overrides, "--out", out)
    assert (
        "no samples of sketch/train; it holds image/test (100), sketch/test (20)" in done.complaint
    )
    assert not out.exists()


def test_data_make_refuses_a_folder_of_another_data_set(data, capfd):
    before = sorted(p.name for p in data.iterdir())
    make = ["data", "make", "procedural", "--out", data]
    told = call(capfd, *make, "--size", "small").complaint
    assert all(w in told for w in [str(data), "procedural-smoke", "procedural-small", "--out"])
    assert "seed 1" in call(capfd, *make, "--size", "smoke", "--seed", 1).complaint
    assert call(capfd, *make, "--size", "smoke").code == 0  # the raw tree is no longer needed
    assert sorted(p.name for p in data.iterdir()) == before


# ---- descriptions and run folders


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("training.stepz=5", ["training.stepz", "did you mean 'steps'"]),
        ("trainning.steps=5", ["trainning", "did you mean 'training'"]),
        ("training.steps=many", ["training.steps", "many"]),
        ("training.steps=0", ["training.steps", "0"]),
        ("method=dannn", ["dannn", "did you mean 'dann'"]),
        ("evaluation.protocol=modelnet", ["evaluation.protocol", "mi3dor"]),
        ("steps", ["steps", "section.key=value"]),
    ],
)
def test_a_wrong_override(override, told, benchmark, tmp_path, capfd):
    out = tmp_path / "run"
    train = ["train", CONFIGS / "source-only.yaml", *short(benchmark)]
    done = call(capfd, *train, override, "--out", out)
    assert all(word in done.complaint for word in told), done.complaint
    assert not out.exists()


def test_a_wrong_description_file(tmp_path, capfd):
    assert "absent.yaml: no such file" in call(capfd, "train", tmp_path / "absent.yaml").complaint
    assert "is a folder" in call(capfd, "train", tmp_path).complaint
    (tmp_path / "a.yaml").write_text("method: [")
    assert "a.yaml: not readable as YAML" in call(capfd, "train", tmp_path / "a.yaml").complaint
    (tmp_path / "a.yaml").write_text("- 1")
    assert "expected sections" in call(capfd, "train", tmp_path / "a.yaml").complaint


def test_another_runs_folder_names_the_differing_fields(benchmark, run, capfd):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    train = ["train", CONFIGS / "source-only.yaml", "--out", run]
    other = call(capfd, *train, *short(benchmark, training__seed=7, optimizer__momentum=0.5))
    assert "differing in optimizer.momentum, training.seed; use another --out" in other.complaint
    longer = call(capfd, *train, *short(benchmark), "training.steps=10").complaint
    assert "differing in training.steps; its schedule is made for 3." in longer
    assert longer.endswith(f"training.init_from={run} training.steps=7, with another --out")
    shorter = call(capfd, *train, *short(benchmark), "training.steps=2").complaint
    assert shorter.endswith("differing in training.steps; it has 3; use another --out")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("facts", ["{", "[]", '{"name": "mine"}', '{"identity": 1, "data": 2}'])
def test_a_run_json_that_is_not_ours(facts, benchmark, tmp_path, capfd):
    (tmp_path / "run.json").write_text(facts)
    train = ["train", CONFIGS / "source-only.yaml", *short(benchmark), "--out", tmp_path]
    told = call(capfd, *train).complaint
    assert f"{tmp_path / 'run.json'}: not " in told
    assert "use another folder" in told
    assert (tmp_path / "run.json").read_text() == facts


def test_an_out_that_cannot_be_a_run_folder(benchmark, tmp_path, capfd):
    train = ["train", CONFIGS / "source-only.yaml", *short(benchmark), "--out"]
    (tmp_path / "letter.txt").write_text("mine")
    told = call(capfd, *train, tmp_path).complaint
    assert f"{tmp_path}: not empty and not a run folder; use another --out" in told
    assert "is a file; use another --out" in call(capfd, *train, tmp_path / "letter.txt").complaint
    below = call(capfd, *train, tmp_path / "letter.txt" / "run").complaint
    assert f"{tmp_path / 'letter.txt' / 'run'}: Not a directory" in below
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_out_without_permission(benchmark, tmp_path, capfd):
    tmp_path.chmod(0o500)
    train = ["train", CONFIGS / "source-only.yaml", *short(benchmark), "--out", tmp_path / "run"]
    assert "not writable" in call(capfd, *train).complaint


def test_evaluating_what_is_no_run(tmp_path, capfd):
    told = call(capfd, "eval", tmp_path / "absent").complaint
    assert "absent: neither a run folder nor a checkpoint" in told
    (tmp_path / "letter.txt").write_text("mine")
    assert "neither a run folder" in call(capfd, "eval", tmp_path, "--json").complaint
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_an_unknown_protocol_is_refused_before_the_work(run, capfd):
    shutil.rmtree(run / "embeddings")
    done = call(capfd, "eval", run, "--protocol", "modelnet", "--json")
    assert "protocol='modelnet': expected one of mi3dor, shrec" in done.complaint
    assert "embedding" not in done.err


def test_evaluating_without_a_whole_checkpoint(run, benchmark, capfd):
    newest = run / "checkpoints" / "step-00000003"
    (newest / "checkpoint.json").write_text("[]")
    told = call(capfd, "eval", newest).complaint
    assert f"{newest}: not a whole checkpoint" in told
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    assert "no checkpoint is whole; delete" in call(capfd, "eval", run).complaint
    shutil.rmtree(run / "checkpoints")
    assert "has no checkpoint yet" in call(capfd, "eval", run).complaint
    train = ["train", CONFIGS / "source-only.yaml", *short(benchmark), "--out", run]
    assert call(capfd, *train).code == 0  # the remedy works although run.json said "finished"
    assert call(capfd, "eval", run).code == 0


@pytest.mark.parametrize("where", ["state.pt", "checkpoint.json"])
def test_a_damaged_newest_checkpoint_is_passed_over(where, run, capfd, caplog):
    newest = run / "checkpoints" / "step-00000003" / where
    content = newest.read_bytes()
    newest.write_bytes(content[: len(content) // 2])
    kept = call(capfd, "eval", run / "checkpoints" / "step-00000002", "--json").json
    assert call(capfd, "eval", run, "--json").json == {**kept, "selection": "last"}
    assert "step-00000003" in caplog.text


def test_a_run_is_not_evaluated_on_other_data_than_it_was_trained_on(data, tmp_path, capfd):
    config = load_config(CONFIGS / "source-only.yaml", short(data))
    other = tmp_path / "own"
    train_run(config, other, workers=0)
    manifest_with_other_rows(data)
    told = call(capfd, "eval", other, "--json").complaint
    assert "trained on other data" in told
    assert str(data) in told
    told = call(capfd, "train", CONFIGS / "source-only.yaml", *short(data), "--out", other)
    assert "trained on other data" in told.complaint


def manifest_with_other_rows(data: Path) -> None:
    """A valid manifest of another data set: two classes have changed names."""
    held = load_manifest(data)
    names = {"sofa": "stool", "stool": "sofa"}
    labels = np.array([names.get(label, label) for label in held.labels], dtype=object)
    write_manifest(replace(held, labels=labels, fingerprint=""))


def test_reporting_what_is_not_evaluated(run, tmp_path, capfd):
    page = tmp_path / "report.html"
    shutil.rmtree(run / "evaluation")
    told = call(capfd, "report", run, "--out", page).complaint
    assert "metrics.json is missing; run `img2shape eval" in told
    absent = call(capfd, "report", tmp_path / "absent", "--out", page).complaint
    assert "absent is no run folder" in absent
    assert not page.exists()


# ---- full disk


@pytest.fixture
def full_disk(monkeypatch) -> Callable[[], None]:
    """A switch: from then on no file reaches the disk."""

    def refuse(*_args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return lambda: monkeypatch.setattr("os.fsync", refuse)


def finals(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_a_full_disk_at_the_first_checkpoint(benchmark, tmp_path, monkeypatch, capfd):
    out = tmp_path / "run"
    train = ["train", CONFIGS / "source-only.yaml", *short(benchmark), "--out", out]

    def refuse(_state: object, file: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("torch.save", refuse)
        told = call(capfd, *train).complaint
    assert f"{out / 'checkpoints' / 'step-00000002'}: the disk is full; free some space" in told
    expected = ["attempts.jsonl", "config.yaml", "log.jsonl", "run.json", "telemetry.json"]
    assert finals(out) == expected
    assert call(capfd, *train).code == 0
    assert (out / "checkpoints" / "step-00000003" / "state.pt").exists()


def test_a_full_disk_leaves_nothing_half_written(
    benchmark, run, tmp_path, full_disk, monkeypatch, capfd
):
    out = tmp_path / "new"
    page = tmp_path / "report.html"
    shutil.rmtree(run / "embeddings")
    shutil.rmtree(run / "evaluation")
    before = finals(run)
    full_disk()
    train = ["train", CONFIGS / "source-only.yaml", *short(benchmark), "--out", out]
    assert f"{out / 'run.json'}: the disk is full" in call(capfd, *train).complaint
    assert finals(out) == []
    told = call(capfd, "eval", run, "--json").complaint
    assert f"{run / 'embeddings' / 'queries'}: the disk is full" in told
    assert finals(run) == before
    monkeypatch.undo()
    assert call(capfd, *train).code == 0
    assert call(capfd, "eval", run, "--json").code == 0
    full_disk()
    told = call(capfd, "report", run, "--out", page).complaint
    assert "the disk is full" in told
    assert not page.exists()


def test_a_full_disk_while_making_data(benchmark, tmp_path, full_disk, capfd):
    out = tmp_path / "data"
    shutil.copytree(benchmark / "raw", out / "raw")
    full_disk()
    make = ["data", "make", "procedural", "--size", "smoke", "--out", out]
    assert f"{out}: the disk is full" in call(capfd, *make).complaint
    assert [p.name for p in out.iterdir()] == ["raw"]


def test_batches_that_the_streams_cannot_give_are_refused_before_anything_is_written(
    benchmark, tmp_path, capfd
):
    out = tmp_path / "run"
    settings = [f"data.root={benchmark}", "method.classes_per_batch=6"]
    refused = call(capfd, "train", CONFIGS / "dca.yaml", *settings, "--out", out).complaint
    assert "have 5 labelled classes in common; ask for fewer" in refused
    assert not out.exists()
    settings = [f"data.root={benchmark}", "method.classes_per_batch=5", "training.batch=64"]
    refused = call(capfd, "train", CONFIGS / "dca.yaml", *settings, "--out", out).complaint
    assert "classes_per_batch x method.samples_per_class = 20 rows, not 64" in refused
    assert not out.exists()


def test_streams_that_a_method_cannot_use_are_refused_in_a_sentence(benchmark, tmp_path, capfd):
    settings = [f"data.root={benchmark}", "data.target_images.split=train", "--out", tmp_path / "r"]
    refused = call(capfd, "train", CONFIGS / "dann.yaml", *settings).complaint
    assert "dann trains on labelled images (source_images) and unlabelled shapes" in refused
    assert not (tmp_path / "r").exists()
