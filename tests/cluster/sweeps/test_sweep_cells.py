"""From points to cells: what is skipped, what is a mistake, and what a cell's key depends on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cluster.sweeps.cells import Cell, Choosing, code_version, make_cell, version_of
from cluster.sweeps.description import Sweep
from cluster.sweeps.grid import sweep_cells
from dataio.datasets import adapter
from dataio.findings import Findings
from dataio.packing import pack
from tests.command import CONFIGS
from tests.dataio.packed import packed
from trainer.config import ConfigError, load_config
from trainer.inputs import OpenData
from trainer.validation.validation import validation_sources

TINY = {"training.steps": 4, "training.batch": 8, "training.checkpoint_every": 2}


def sweep(benchmark, **tree: Any) -> Sweep:
    keys = {"data.root": str(benchmark), "data.num_classes": None, **TINY, **tree.pop("set", {})}
    return Sweep(
        name="s", config=str(CONFIGS / "{method}.yaml"), **{"axes": {"method": ["dann"]}, **tree},
        set=keys,
    )  # fmt: skip


def cell(benchmark, *overrides: str, code: str = "c", **choosing: Any) -> Cell:
    keys = [f"{k}={v}" for k, v in TINY.items()]
    config = load_config(
        CONFIGS / "dann.yaml",
        [f"data.root={benchmark}", "data.num_classes=null", *keys, *overrides],
    )
    return make_cell({"method": "dann"}, config, Choosing(**choosing), code=code)


def test_what_a_method_cannot_do_is_skipped_with_the_reason(benchmark):
    cells, skipped = sweep_cells(
        sweep(
            benchmark,
            axes={
                "method": ["dann", "mstn"],
                "variant": {"own": {}, "centres": {"method.theta": 0.5}},
            },
        )
    )
    assert [(c.labels["method"], c.labels["variant"]) for c in cells] == [
        ("dann", "own"),
        ("mstn", "own"),
        ("mstn", "centres"),
    ]
    assert [s.labels for s in skipped] == [{"method": "dann", "variant": "centres"}]
    assert "unknown key 'method.theta'" in skipped[0].reason


@pytest.mark.parametrize(
    ("axes", "words"),
    [
        ({"method": ["dan", "atsn"]}, "axes.method: no method 'atsn'; did you mean 'astn'?"),
        ({"method": ["dann"], "training.stepz": [1]}, "axes.training.stepz: 1 fits no cell"),
        ({"method": ["dann"], "network.backbone": ["tiny", "tinny"]}, "'tinny' fits no cell"),
        ({"training.seed": [0]}, "stands for a method's own file; name methods on an axis"),
        ({"method": ["dann"], "data.root": ["data/absent"]}, "fits no cell"),
    ],
)
def test_what_no_method_can_do_is_a_mistake(benchmark, axes, words):
    with pytest.raises(ConfigError) as caught:
        sweep_cells(sweep(benchmark, axes=axes))
    assert words in str(caught.value)


def test_missing_data_are_found_before_anything_is_trained(benchmark):
    with pytest.raises(ConfigError, match="no cell can be trained"):
        sweep_cells(sweep(benchmark, set={"data.root": "data/absent"}))
    seeds = {"method": ["dann", "astn"], "training.seed": [0, 1]}
    with pytest.raises(ConfigError, match=r"^no cell can be trained: data/absent: "):
        sweep_cells(sweep(benchmark, set={"data.root": "data/absent"}, axes=seeds))
    roots = {**seeds, "data.root": ["data/absent"]}
    with pytest.raises(ConfigError, match=r"^axes\.data\.root: 'data/absent' fits no cell: "):
        sweep_cells(sweep(benchmark, axes=roots))
    many = {"method.classes_per_batch": 9, "training.batch": 36, "method.samples_per_class": 4}
    with pytest.raises(ConfigError, match="classes"):  # the benchmark has five
        sweep_cells(sweep(benchmark, set=many, axes={"method": ["dcml"]}))


def test_a_cell_that_two_points_stand_for_is_trained_once(benchmark):
    axes = {"method": ["dann"], "pair": {"x": {"training.seed": 1}, "y": {"training.seed": 1}}}
    cells, skipped = sweep_cells(sweep(benchmark, axes=axes))
    assert len(cells) == 1
    assert not skipped


def test_the_key_knows_what_shapes_a_result(benchmark, tmp_path):
    base = cell(benchmark)
    assert base.key == cell(benchmark).key
    moved = tmp_path / "elsewhere"
    shutil.copytree(benchmark, moved)
    assert cell(moved).key == base.key  # where the data lie is no part of them
    others = [
        cell(benchmark, "training.seed=1"),
        cell(benchmark, "training.steps=6"),
        cell(benchmark, "method.adversarial_weight=0.3"),
        cell(benchmark, "evaluation.metric=euclidean"),
        cell(benchmark, "data.queries.split=val"),
        cell(benchmark, selection="im"),
        cell(benchmark, oracle=False),
        cell(benchmark, code="other"),
        replace(base, key=_key_after(base, "0" * 16)),
        replace(base, key=_key_after(base, "1" * 16)),
    ]
    keys = [base.key, *(other.key for other in others)]
    assert len({*keys}) == len(keys)


def _key_after(base: Cell, after: str) -> str:
    config = base.config.model_copy(
        update={"training": base.config.training.model_copy(update={"init_from": "runs/x"})}
    )
    made = make_cell(base.labels, config, base.choosing, code=base.code, after=after)
    elsewhere = config.model_copy(
        update={"training": config.training.model_copy(update={"init_from": "other/place"})}
    )
    assert make_cell({}, elsewhere, base.choosing, code=base.code, after=after).key == made.key
    return made.key


def test_other_data_are_another_cell(benchmark, tmp_path):
    keys = ("data.queries.split=train", "data.gallery.split=train", "validation.split=train")
    other = cell(packed(tmp_path / "other").root, *keys, oracle=False)
    assert other.key != cell(benchmark, *keys, oracle=False).key


def test_validation_follows_the_choice_of_checkpoints(benchmark):
    last = cell(benchmark, oracle=False).config.validation
    assert last.every is None
    oracle = cell(benchmark).config.validation
    assert (oracle.every, oracle.metric, oracle.criterion, oracle.split) == (2, "mAP", None, "val")
    both = cell(benchmark, selection="snd", validate_every=4).config.validation
    assert (both.every, both.metric, both.criterion) == (4, "mAP", "snd")
    unseen = cell(benchmark, selection="im", oracle=False).config.validation
    assert (unseen.metric, unseen.criterion) == (None, "im")  # no target label is read
    assert cell(benchmark, compares="FT").config.validation.metric == "FT"


def test_validation_reads_what_is_evaluated_where_there_is_no_val(tmp_path):
    root = packed(tmp_path / "mine").root
    own = {"data.queries.split": "train", "data.gallery.split": "train"}
    keys = [f"{name}={split}" for name, split in own.items()]
    assert cell(root, *keys).config.validation.split == "train"
    assert cell(root, keys[0]).config.validation.split == "evaluated"  # the sides' splits differ
    axes = {"method": ["dann"], "training.seed": [0, 1]}
    cells, skipped = sweep_cells(sweep(root, axes=axes, set=own))
    assert ([c.config.training.seed for c in cells], skipped) == ([0, 1], [])


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> str:
    """Photos and views of one's own in folders, packed as they come: without a split val."""
    root = tmp_path_factory.mktemp("own")
    for label in ("chair", "lamp"):
        for number in range(5):
            views = root / "mine" / "views" / label / f"v{number}"
            views.mkdir(parents=True)
            (root / "mine" / "images" / label).mkdir(parents=True, exist_ok=True)
            picture = Image.new("RGB", (32, 32), (40 * number, 90, 10 + 30 * len(label)))
            picture.save(root / "mine" / "images" / label / f"{number}.png")
            for view in range(12):
                picture.save(views / f"{view:02d}.png")
    pack_own(root / "mine", root / "packed")
    return str(root / "packed")


def pack_own(root: Path, out: Path) -> None:
    chosen = adapter("folder")
    pack(chosen.records(root, chosen.options(), Findings("folder")), out, dataset="folder")


def own_sweep(own: str, *methods: str, **tree: Any) -> Sweep:
    keys = {"data.root": own, **TINY, "network.train": "all", **tree.pop("set", {})}
    keys |= {"network.backbone": "tiny", "network.weights": "none", "network.image_size": None}
    return Sweep(
        name="s", config=str(CONFIGS.parent / "own" / "{method}.yaml"), set=keys,
        axes={"method": list(methods), "training.seed": [0, 1]}, **tree,
    )  # fmt: skip


def test_a_sweep_on_own_folders_needs_no_val(own):
    cells, skipped = sweep_cells(own_sweep(own, "source-only", "dann"))
    labels = [(c.labels["method"], c.labels["training.seed"]) for c in cells]
    assert labels == [("source-only", 0), ("source-only", 1), ("dann", 0), ("dann", 1)]
    assert skipped == []
    scored = cells[0].config.validation
    # All shapes are searched and the test photos ask; what both have is test.
    assert (scored.every, scored.metric, scored.split) == (2, "mAP", "test")


def test_each_side_is_scored_as_it_is_evaluated_where_they_share_no_split(own):
    """Shapes without a test split, as split.csv may say: the test photos ask all shapes."""
    root = Path(own).parent / "mine"
    packed_without = root.parent / "packed-without-test"
    (root / "split.csv").write_text("path,split\nviews/chair,train\nviews/lamp,train\n")
    pack_own(root, packed_without)
    cells, skipped = sweep_cells(own_sweep(str(packed_without), "dann"))
    assert ([c.config.validation.split for c in cells], skipped) == (["evaluated"] * 2, [])
    sources = validation_sources(OpenData(cells[0].config))
    assert {side: len(source.rows) for side, source in sources.items()} == {
        "queries": 2, "gallery": 10,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"selection": "source-val"}, "selection"),
        ({"objective": "source-val", "early_stopping": {"grace_steps": 2}}, "objective"),
    ],
)
def test_a_criterion_without_its_split_is_blamed_and_no_axis(own, tree, key):
    words = (
        rf"^no cell can be trained: {key}: validation\.criterion=source-val: .* has no image of "
        r"split 'val' for data\.source_images; .* -o val_share=0\.1"
    )
    with pytest.raises(ConfigError, match=words):
        sweep_cells(own_sweep(own, "dann", **tree))


def test_a_method_without_a_classifier_cannot_be_selected_by_one(benchmark):
    _, skipped = sweep_cells(
        sweep(
            benchmark,
            axes={"method": ["dann", "siamese"]},
            set={
                "data.source_images.stream": "sketch",
                "data.queries.stream": "sketch",
                "training.batch": 32,  # what siamese draws
            },
            selection="im",
        )
    )
    assert [s.labels["method"] for s in skipped] == ["siamese"]
    assert "no classifier" in skipped[0].reason


def test_a_cell_survives_the_way_to_another_process(benchmark):
    found = cell(benchmark, selection="im")
    assert Cell.from_text(found.to_text()) == found


def test_comments_and_docstrings_are_no_new_version():
    one = {"a.py": 'def f(x):\n    """Say."""\n    return x  # why\n', "b.py": "x = 1\n"}
    same = {
        "a.py": 'def f(x):\n\n    """Other."""\n    return (x)\n',
        "b.py": '"""New."""\nx = 1\n',
    }
    assert version_of(one) == version_of(same)
    for changed in (
        {**one, "a.py": one["a.py"].replace("return x", "return -x")},
        {**one, "c.py": ""},
        {"a.py": one["a.py"], "c.py": one["b.py"]},
    ):
        assert version_of(changed) != version_of(one)
    assert len(code_version()) == 12
