"""`img2shape k8s render` refuses what would fail in the cluster, in one line with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.kubernetes.options import (
    object_name,
    parse_bytes,
    require_name,
    shown_bytes,
    size_of,
)
from tests.command import CONFIGS, ROOT, call

SWEEP = ROOT / "configs" / "sweeps" / "backbones-and-pairs.yaml"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--job", "trian"], "did you mean 'train'?"),
        (["--job", "sweep"], "no sweep file"),
        (["--queue", "kuue"], "did you mean 'kueue'?"),
        (["--gpus", "3", "--gpus-per-node", "2"], "no multiple of --gpus-per-node 2"),
        (["--gpus", "4", "--workers", "2"], "leave --workers out"),
        (["--workers", "0"], "give 1 or more"),
        (["--workers", "many"], "expected a number or a range"),
        (["--memory", "16GB"], "Mi, Gi or Ti"),
        (["--memory", "2Gi", "--shm", "2Gi"], "raise --memory or lower --shm"),
        (["--name", "ASTN_1"], "e.g. astn-1"),
        (["--name", "a" * 48], "up to 47"),
        (["--namespace", "My Space"], "--namespace 'My Space'"),
        (["--run", "../x"], "the name of a folder below runs"),
        (["--secret", "AWS_KEY=pw"], "--secret: not the name of a Secret"),
        (["--monitoring-namespace", "a_b"], "--monitoring-namespace 'a_b'"),
        (["--storage", "s3://bucket/x"], "add --storage pvc:CLAIM:SIZE for the runs"),
        (["--storage", "nfs://host/x"], "expected pvc:CLAIM"),
        (["--storage", "pvc:data:much"], "--storage pvc:CLAIM:SIZE 'much'"),
        (["--storage", "pvc:a", "--storage", "pvc:b"], "one volume"),
        (["--storage", "pvc:a", "--storage-class", "nfs"], "give its size"),
        (["data.root=/home/me/data"], "a path of this machine"),
        (["data.root=file:///home/me/data"], "a path of this machine"),
        (["data.root=../data"], "a path of this machine"),
        (["training.init_from=/runs/a"], "training.init_from: '/runs/a' is a path of this machine"),
        (["data.root=https://me:pw@host/set"], "name it with --secret"),
        (["data.root=https://host/set?token=pw"], "name it with --secret"),
        (["training.step=3"], "did you mean 'steps'?"),
    ],
)
def test_bad_input_has_one_line_with_the_remedy(args, told, capfd):
    complaint = call(capfd, "k8s", "render", CONFIGS / "astn.yaml", *args).complaint
    assert told in complaint
    assert "pw" not in complaint


def test_passwords_in_a_storage_are_not_repeated(capfd):
    told = call(capfd, "k8s", "render", CONFIGS / "astn.yaml", "--storage", "s3://k:hidden@b/x")
    assert "without credentials" in told.complaint
    assert "hidden" not in told.err


def test_a_sweep_is_refused_what_only_runs_have(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    told = call(
        capfd, "k8s", "render", SWEEP, "--storage", "pvc:a", "--storage", "gs://b/sets"
    ).complaint
    assert "write gs://b/sets/... into" in told
    assert "is a sweep file" in call(capfd, "k8s", "render", SWEEP, "--job", "eval").complaint
    alone = tmp_path / "alone.yaml"
    alone.write_text(yaml.safe_dump({"config": "nowhere.yaml", "axes": {"training.seed": [0, 1]}}))
    assert "no such file" in call(capfd, "k8s", "render", alone).complaint


def test_descriptions_in_folders_of_methods_keep_apart(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("astn", "dann"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "base.yaml").write_text((CONFIGS / f"{name}.yaml").read_text())
    tree = {"config": "mine/{method}/base.yaml", "axes": {"method": ["astn", "dann"]}}
    (tmp_path / "both.yaml").write_text(yaml.safe_dump(tree))
    shown = call(capfd, "k8s", "render", "both.yaml", "--no-monitoring")
    assert shown.code == 0, shown.err
    maps = [o for o in yaml.safe_load_all(shown.out) if o["kind"] == "ConfigMap"]
    assert set(maps[0]["data"]) == {"config.yaml", "astn-base.yaml", "dann-base.yaml"}
    assert yaml.safe_load(maps[0]["data"]["config.yaml"])["config"] == "{method}-base.yaml"


def test_an_output_that_cannot_be_written_is_named(capfd, tmp_path):
    out = tmp_path / "none" / "job.yaml"
    told = call(
        capfd, "k8s", "render", CONFIGS / "astn.yaml", "--no-monitoring", "--out", out
    ).complaint
    assert str(out) in told


def test_sizes_follow_from_gpus():
    size = size_of(gpus=8, gpus_per_node=4)
    assert (size.pods, size.gpus, size.cpus, str(size.workers)) == (2, 4, 32, "8")
    assert shown_bytes(size.memory_bytes) == "128Gi"
    assert shown_bytes(size.shm_bytes) == "32Gi"
    elastic = size_of(gpus=4, workers="2-4")
    assert (elastic.pods, str(elastic.workers)) == (4, "2-4")


@pytest.mark.parametrize("text", ["1Mi", "16Gi", "1536Mi", "2Ti"])
def test_amounts_are_read_as_written(text):
    size_bytes = parse_bytes(text, option="--memory")
    assert parse_bytes(shown_bytes(size_bytes), option="--memory") == size_bytes


@pytest.mark.parametrize(
    ("text", "name"),
    [("ASTN_1", "astn-1"), ("3d", "run-3d"), ("x" * 60, "x" * 47), ("é", "run-"[:-1])],
)
def test_any_text_makes_a_name(text, name):
    assert object_name(text) == name
    assert require_name("--name", name) == name


def test_a_file_with_an_odd_name_renders(capfd, tmp_path):
    file: Path = tmp_path / "My Run (2).yaml"
    file.write_text((CONFIGS / "astn.yaml").read_text())
    shown = call(capfd, "k8s", "render", file, "--no-monitoring")
    assert shown.code == 0, shown.err
    assert "--out runs/my-run-2\n" in shown.out
