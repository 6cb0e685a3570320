"""Run descriptions by name from any folder, and ``--data`` for data of one's own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.configurations import read_run
from cluster.evaluation.jobs import evaluate_run
from cluster.training.jobs import train_run
from tests.command import CONFIGS, call, small
from trainer.config import load_config
from trainer.errors import ConfigError
from trainer.inputs.data_sets import read_again
from trainer.shipped import SWEEPS, configs_named, find_config, shipped_configs


@pytest.mark.parametrize("name", ["astn", "procedural/astn", "configs/procedural/astn.yaml"])
def test_a_shipped_configuration_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / "astn.yaml"
    assert load_config(name) == load_config(CONFIGS / "astn.yaml")


def test_a_path_that_exists_wins_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("astn").mkdir()
    assert find_config("astn") == CONFIGS / "astn.yaml"
    Path("astn").rmdir()
    Path("astn").write_text("method: dann")
    assert find_config("astn") == Path("astn")
    assert load_config("astn").method_name == "dann"


def test_a_short_name_prefers_the_built_in_benchmark_and_the_command_says_which(capfd):
    assert configs_named("astn")[0] == "procedural/astn"
    assert "mi3dor/astn" in configs_named("astn")
    assert read_run(Path("astn"), ["training.steps=3"]).training.steps == 3
    told = capfd.readouterr().err
    assert "configuration: " in told
    assert "configs/procedural/astn.yaml (others of this name: mi3dor/astn" in told
    read_run(CONFIGS / "astn.yaml", None)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "near"), [("procedural/atsn", "procedural/astn"), ("hiffa", "procedural/hifa")]
)
def test_an_unknown_name_is_told_the_nearest(name, near, capfd):
    told = call(capfd, "train", name).complaint
    assert told.startswith(f"{name}: no such file; configs/ holds ready ones; did you mean ")
    assert near in told


def test_sweeps_are_found_by_name_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("astn-weights", SWEEPS) == CONFIGS.parent / "sweeps" / "astn-weights.yaml"
    with pytest.raises(ConfigError, match="`img2shape configs` lists them"):
        find_config("astn-weights")


def test_all_are_listed_and_one_is_printed(capfd):
    listed = call(capfd, "configs", "--json").json["configs"]
    assert [one["name"] for one in listed] == list(shipped_configs())
    assert all(Path(one["file"]).is_file() and one["about"] for one in listed)
    assert not any(one["name"].startswith(("tables/", "sweeps/")) for one in listed)
    shown = call(capfd, "configs")
    assert all(one["name"] in shown.out for one in listed)
    assert call(capfd, "configs", "mi3dor/astn").out == find_config("mi3dor/astn").read_text()


def test_own_data_bring_their_name_and_classes(benchmark, capfd):
    config = read_run(Path("astn"), None, str(benchmark))
    assert (config.data.root, config.data.num_classes) == (str(benchmark), None)
    assert read_run(Path("astn"), ["data.root=x"], str(benchmark)).data.root == "x"
    explained = call(capfd, "data", "explain", "astn", "--data", benchmark, "--json").json
    assert explained["steps"] == config.training.steps


def test_a_run_whose_data_moved_is_told_where_they_are(benchmark, tmp_path, capfd):
    data, moved, run = tmp_path / "data", tmp_path / "moved", tmp_path / "run"
    shutil.copytree(benchmark, data, ignore=shutil.ignore_patterns("raw"))
    train_run(load_config("source-only", small(data)), run, workers=0)
    shutil.move(data, moved)
    read_again()  # each command is a process of its own
    picture = next((benchmark / "raw").rglob("*.jpg"))
    told = call(capfd, "search", run, "--image", picture).complaint
    assert told.startswith(f"{data}: no data set here (no manifest.parquet), but ")
    assert told.endswith("say where it lies now: --data FOLDER")
    found = call(capfd, "search", run, "--image", picture, "--data", moved, "--json").json
    assert found["answers"][0]["results"]
    scored = call(capfd, "eval", run, "--data", moved, "--json").json
    assert scored["mAP"] == evaluate_run(run, shards=1, data=str(moved))["mAP"]


def test_a_mistyped_file_is_refused_without_torch():
    code = (
        "import sys\n"
        "from cluster.cli.app import main\n"
        "sys.argv = ['img2shape', 'train', 'asn']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    sys.exit(3 if 'torch' in sys.modules else end.code)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 2


def test_the_version(capfd):
    assert call(capfd, "--version").out.startswith("img2shape ")
