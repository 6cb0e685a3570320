"""Transfer pairs: two lines become the selections of section data, with one label space."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dataio.shards.labels import renamed
from dataio.shards.manifest import write_manifest
from dataio.shards.opening import load_manifest
from tests.command import call, small
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.inputs.open_data import OpenData

PAIR = {"source": "shrec14", "target": "pix3d", "classes": ["bed", "chair", "sofa", "table"]}


def run(method: str, **sections) -> RunConfig:
    return parse_config({"method": {"name": method}, **sections})


def selected(config: RunConfig) -> dict[str, tuple]:
    names = ("source_images", "source_shapes", "target_images", "target_shapes")
    found = {n: getattr(config.data, n) for n in (*names, "queries", "gallery")}
    return {n: (s.stream, s.split, s.root) for n, s in found.items() if s is not None}


def test_four_streams_of_a_transductive_pair():
    config = run("daisnet", transfer=PAIR)
    assert selected(config) == {
        "source_images": ("sketch", "all", "data/shrec14"),
        "source_shapes": ("shape", "all", "data/shrec14"),
        "target_images": ("image", "all", "data/pix3d"),
        "target_shapes": ("shape", "all", "data/pix3d"),
        "queries": ("image", "all", "data/pix3d"),
        "gallery": ("shape", "all", "data/pix3d"),
    }
    assert config.data.restrict
    assert config.data.dataset == "shrec14-pix3d"
    assert config.data.classes == tuple(PAIR["classes"])


def test_an_inductive_pair_keeps_its_test_split_unseen():
    config = run("daisnet", transfer={**PAIR, "protocol": "inductive", "folder": "s3://lab/sets"})
    found = selected(config)
    assert found["target_images"] == ("image", "train", "s3://lab/sets/pix3d")
    assert found["target_shapes"] == ("shape", "train", "s3://lab/sets/pix3d")
    assert found["queries"] == ("image", "test", "s3://lab/sets/pix3d")
    assert found["gallery"] == ("shape", "test", "s3://lab/sets/pix3d")


def test_where_only_source_images_are_learnt_from_their_test_images_are_the_queries():
    config = run("dann", transfer={"source": "./photos", "target": "/sets/shapes"})
    assert selected(config) == {
        "source_images": ("image", "train", "./photos"),
        "target_shapes": ("shape", "all", "/sets/shapes"),
        "queries": ("image", "test", "./photos"),
        "gallery": ("shape", "all", "/sets/shapes"),
    }
    assert config.data.classes is None


def test_a_domain_may_be_the_union_of_data_sets():
    config = run("daisnet", transfer={**PAIR, "target": ["imagenet", "shapenet-v2"]})
    roots = ("data/imagenet", "data/shapenet-v2")
    assert selected(config)["target_images"] == ("image", "all", roots)
    assert selected(config)["gallery"] == ("shape", "all", roots)
    assert config.data.dataset == "shrec14-imagenet+shapenet-v2"


def test_section_data_overrides_the_pair():
    data = {"gallery": {"split": "test"}, "dataset": "mine"}
    config = run("daisnet", transfer=PAIR, data=data)
    assert selected(config)["gallery"] == ("shape", "test", "data/pix3d")
    assert config.data.dataset == "mine"
    assert parse_config(config.to_dict()) == config


@pytest.mark.parametrize(
    ("transfer", "told"),
    [
        ({**PAIR, "sorce": "x"}, r"unknown key 'transfer.sorce'; did you mean 'source'\?"),
        ({"source": "a"}, "transfer.target: Field required"),
        ({**PAIR, "protocol": "both"}, "transfer.protocol"),
        ("shrec14", "transfer: expected keys and values"),
    ],
)
def test_a_pair_that_cannot_be_read_is_refused(transfer, told):
    with pytest.raises(ConfigError, match=told):
        run("daisnet", transfer=transfer)


def test_a_misspelt_section_names_this_one():
    with pytest.raises(ConfigError, match="did you mean 'transfer'"):
        run("daisnet", transfr=PAIR)


# ---- on data


@pytest.fixture
def pair(benchmark, tmp_path) -> Path:
    """Folder with two data sets of the same samples; one calls its sofas couches."""
    for name in ("shrec14", "pix3d"):
        shutil.copytree(benchmark, tmp_path / name, ignore=shutil.ignore_patterns("raw"))
    held = load_manifest(tmp_path / "shrec14")
    names = {"sofa": "couch", "stool": "barstool"}
    write_manifest(replace(renamed(held, names), fingerprint=""))
    return tmp_path


def test_the_mapping_is_explicit_and_every_stream_follows_it(pair):
    transfer = {**PAIR, "folder": str(pair), "classes": ["chair", "sofa"]}
    config = run("daisnet", transfer=transfer)
    source, target = str(pair / "shrec14"), str(pair / "pix3d")
    assert OpenData(config).mapping == {
        "chair": {source: ["chair"], target: ["chair"]},
        "sofa": {source: ["couch"], target: ["sofa"]},
    }
    for stream in OpenData(config).sources.values():
        assert set(stream.manifest.labels[stream.rows]) == {"chair", "sofa"}
    gallery = OpenData(config).evaluation_source(config.data.gallery)
    assert set(gallery.manifest.labels[gallery.rows]) == {"chair", "sofa"}
    splits = set(gallery.manifest.splits[gallery.rows])
    assert splits == {"train", "val", "test"}


def test_without_classes_the_label_space_is_what_both_have(pair):
    config = run("daisnet", transfer={"source": "shrec14", "target": "pix3d", "folder": str(pair)})
    assert OpenData(config).classes == ("bottle", "chair", "couch", "vase")
    mapped = {"source": "shrec14", "target": "pix3d", "folder": str(pair)}
    config = run("daisnet", transfer={**mapped, "mapping": {"stool": ["barstool"]}})
    assert OpenData(config).classes == ("bottle", "chair", "couch", "stool", "vase")


def test_a_class_that_one_side_lacks_is_refused_with_its_close_names(pair):
    transfer = {**PAIR, "folder": str(pair), "classes": ["chair", "stool"]}
    with pytest.raises(
        ConfigError, match=r"shrec14: has no class 'stool'; did you mean 'barstool'"
    ):
        OpenData(run("daisnet", transfer=transfer)).require_trainable()


def test_training_prints_the_mapping_and_the_run_is_evaluated(pair, tmp_path, capfd):
    keep = {"network.tiny_width", "network.embedding", "training.threads", "training.precision"}
    tiny = [o for o in small(pair) if o.split("=")[0] in keep]
    pair_options = ["source=shrec14", "target=pix3d", "classes=[chair,sofa]", f"folder={pair}"]
    settings = [*tiny, "training.steps=2", "training.batch=6", "data.train_views=2",
                *(f"transfer.{option}" for option in pair_options)]  # fmt: skip
    own = tmp_path / "daisnet.yaml"
    own.write_text("method: {name: daisnet}\nnetwork: {backbone: tiny, weights: none}\n")
    made = call(capfd, "train", own, *settings, "--out", tmp_path / "run")
    assert made.code == 0, made.err
    assert "classes: chair, sofa (couch in " in made.err
    result = call(capfd, "eval", tmp_path / "run", "--json").json
    assert result["n_evaluated"] > 0
