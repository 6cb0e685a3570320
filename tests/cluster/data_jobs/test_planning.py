from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataio.packing.records_to_shards import pack
from dataio.records import DataError
from dataio.shards.reading import content_member
from tests.command import CONFIGS, call
from tests.dataio.packed import packed, records
from trainer.config import RunConfig, load_config
from trainer.explain import explain_run, replay_step
from trainer.inputs.open_data import OpenData
from trainer.inputs.streams import training_loader


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return Path(packed(tmp_path_factory.mktemp("planning")).root)


def overrides(root: Path, **more: object) -> list[str]:
    settings = {
        "data.root": root,
        "data.queries.split": "train",  # the small set has no test images
        "data.train_views": 2,
        "data.block_shards": 2,
        "data.num_classes": "null",
        "training.steps": 7,
        "training.batch": 6,
        "training.cache": "none",
        "training.loader_workers": 0,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return [f"{name}={value}" for name, value in settings.items()]


def plain(root: Path, **more: object) -> RunConfig:
    return load_config(CONFIGS / "astn.yaml", overrides(root, **more))


def balanced(root: Path, **more: object) -> RunConfig:
    settings: dict[str, object] = {
        "data__source_images__stream": "image",
        "data__queries__stream": "image",
        "method__classes_per_batch": 2,
        "method__samples_per_class": 3,
        **more,
    }
    return load_config(CONFIGS / "dcml.yaml", overrides(root, **settings))


METHODS = pytest.mark.parametrize("make", [plain, balanced])


def batches_of(config: RunConfig, *, rank: int = 0, world_size: int = 1) -> list[dict]:
    loader = training_loader(OpenData(config), rank=rank, world_size=world_size)
    return [batch for _, batch in loader]


# ---- replay ------------------------------------------------------------------------------------


@METHODS
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_replay_is_what_training_loads(root, make, world_size):
    config = make(root)
    ranks = [batches_of(config, rank=r, world_size=world_size) for r in range(world_size)]
    for step in range(config.training.steps):
        replayed = replay_step(OpenData(config), step=step, world_size=world_size)
        for name, stream in replayed["streams"].items():
            parts = [ranks[r][step][name] for r in range(world_size)]
            assert stream["keys"] == [key for part in parts for key in part.keys]
            for part, (start, end) in zip(parts, stream["parts"], strict=True):
                assert (part.offset, len(part), part.count) == (
                    start, end - start, len(stream["keys"]),
                )  # fmt: skip


def test_replay_names_pass_and_views(root):
    config = plain(root)
    first = replay_step(OpenData(config), step=0, world_size=1)["streams"]
    later = replay_step(OpenData(config), step=6, world_size=1)["streams"]
    assert set(first) == {"source_images", "target_shapes"}
    assert (set(first["source_images"]["passes"]), set(later["source_images"]["passes"])) == (
        {0}, {1},
    )  # fmt: skip
    assert set(later["target_shapes"]["passes"]) == {3}
    assert first["source_images"]["views"] is None
    views = np.array(first["target_shapes"]["views"])
    assert views.shape == (6, 2)
    assert (views[:, 0] < views[:, 1]).all()
    assert views.max() < 5


def test_replayed_views_are_those_loaded(root):
    """Each loaded view is one of the shape's stored views: the one that replay names."""
    config = plain(root, data__augment="null")
    whole = load_config(
        CONFIGS / "astn.yaml", overrides(root, data__augment="null", data__train_views="null")
    )
    stored = {}
    for batch in batches_of(whole):
        shapes = batch["target_shapes"]
        stored.update(zip(shapes.keys, shapes.pixels, strict=True))
    for step, batch in enumerate(batches_of(config)):
        replayed = replay_step(OpenData(config), step=step, world_size=1)["streams"][
            "target_shapes"
        ]
        for pixels, key, views in zip(
            batch["target_shapes"].pixels, replayed["keys"], replayed["views"], strict=True
        ):
            assert (pixels == stored[key][views]).all()


@pytest.mark.parametrize("step", [7, -1])
def test_a_step_beyond_the_run_is_an_error(root, step):
    with pytest.raises(DataError, match=r"has 7 steps, numbered from 0; .* training\.steps"):
        replay_step(OpenData(plain(root)), step=step, world_size=1)


# ---- explain -----------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_numbers_of_passes_are_those_of_a_run(root, world_size):
    config = plain(root, training__steps=9)
    sources = OpenData(config).sources
    ranks = [batches_of(config, rank=r, world_size=world_size) for r in range(world_size)]
    facts = explain_run(OpenData(config), world_size=world_size)
    for name, stream in facts["streams"].items():
        manifest = sources[name].manifest
        parts = [[batches[step][name] for batches in ranks] for step in range(9)]
        rows = [torch_rows for step in parts for part in step for torch_rows in part.row.tolist()]
        size = {row: content_member(manifest, row).size for row in set(rows)}
        assert stream["run_bytes"] == sum(size[row] for row in rows)
        used = [len(part) for step in parts for part in step]
        assert stream["rows_per_worker"] == [min(used), max(used)]
        counts = [sum(map(len, step)) for step in parts]
        once = counts[: stream["steps_per_pass"]]
        assert (sum(once), once[-1]) == (stream["samples"], stream["last_batch"])
        assert stream["padding"] == sum(6 - n for n in once)
        assert stream["passes"] == pytest.approx(9 / len(once))
        in_pass = rows[: stream["samples"]]
        assert stream["pass_bytes"] == sum(size[row] for row in in_pass)
        assert stream["shards"] == len(set(manifest.shard_ids[in_pass].tolist()))
    assert facts["run_bytes"] == sum(s["run_bytes"] for s in facts["streams"].values())
    assert [s["labelled"] for s in facts["streams"].values()] == [True, False]


def test_shards_at_once_bound_a_pass(root):
    """However a pass is walked, the shards begun and not ended are never more than said."""
    config = plain(root, training__batch=1, training__steps=22)
    manifest = OpenData(config).sources["source_images"].manifest
    rows = [batch["source_images"].row.item() for batch in batches_of(config)]
    shards = manifest.shard_ids[rows].tolist()
    most = max(len({s for s in shards[: i + 1] if s in shards[i:]}) for i in range(len(shards)))
    stream = explain_run(OpenData(config), world_size=1)["streams"]["source_images"]
    assert most <= stream["shards_at_once"] == 2
    assert stream["shards"] == 8


def test_cache_need_is_what_the_decoded_samples_take(root):
    config = plain(root, data__train_views="null", training__steps=4)
    facts = explain_run(OpenData(config), world_size=1)
    for name in facts["streams"]:
        pixels = {
            key: one.numel()
            for batch in batches_of(config)
            for key, one in zip(batch[name].keys, batch[name].pixels, strict=True)
        }
        assert facts["streams"][name]["cache_bytes"] == sum(pixels.values())
    assert facts["cache_bytes"] == sum(s["cache_bytes"] for s in facts["streams"].values())


@pytest.mark.slow
def test_balanced_numbers_are_expected_values(root):
    config = balanced(root, training__steps=400)
    facts = explain_run(OpenData(config), world_size=2)
    batches = batches_of(config)
    for name, source in OpenData(config).sources.items():
        stream, manifest = facts["streams"][name], source.manifest
        rows = [row for batch in batches for row in batch[name].row.tolist()]
        drawn = Counter(manifest.labels[rows].tolist())
        assert stream["batch"] == 6
        assert stream["rows_per_worker"] == [3, 3]
        assert stream["passes"] == pytest.approx(len(rows) / stream["samples"])
        assert stream["balance"]["classes"] == len(drawn) == 3
        for count in drawn.values():
            assert count == pytest.approx(stream["balance"]["draws_per_class"], rel=0.15)
        read = sum(
            content_member(manifest, row).size
            for batch in batches
            for row in set(batch[name].row.tolist())
        )
        assert stream["run_bytes"] == pytest.approx(read, rel=0.05)


def test_classes_smaller_than_their_share_are_told(root):
    config = balanced(root, method__samples_per_class=4, training__batch=8)
    facts = explain_run(OpenData(config), world_size=1)
    assert facts["streams"]["source_images"]["balance"]["small_classes"] == {}
    small = facts["streams"]["source_shapes"]["balance"]["small_classes"]
    assert small == {"class1": 3, "class2": 3}
    assert facts["warnings"] == [
        "source_shapes: fewer samples than method.samples_per_class, so repeated: class1 (3), "
        "class2 (3)"
    ]


def test_queries_and_gallery(root):
    facts = explain_run(OpenData(plain(root)), world_size=1)
    assert (facts["queries"]["samples"], facts["gallery"]["samples"]) == (22, 3)
    assert facts["queries"]["missing_in_gallery"] == []
    assert facts["mapping"] is None


def test_the_class_mapping_is_shown(root, capfd):
    arguments = (CONFIGS / "astn.yaml", *overrides(root, data__restrict="true"))
    mapping = call(capfd, "data", "explain", *arguments, "--json").json["mapping"]
    assert mapping == {name: {str(root): [name]} for name in ("class0", "class1", "class2")}
    assert "names that stand for a class" in call(capfd, "data", "explain", *arguments).out


@pytest.mark.parametrize(
    ("settings", "world_size", "warning"),
    [
        ({"training__batch": 4}, 6, "source_images: batches of 4 rows leave 2 of 6 workers empty"),
        (
            {},
            5,
            "source_images: the last batch of a pass (4 of 6 rows) leaves 1 of 5 workers empty",
        ),
        ({"training__batch": 7}, 1, "source_images: the last batch of a pass is a single row"),
        ({"training__steps": 3}, 1, "source_images: training.steps=3 reads 75% of the samples"),
        ({"training__cache": "ram"}, 1, "training.cache: all samples decoded take"),
    ],
)
def test_warnings(root, settings, world_size, warning):
    facts = explain_run(OpenData(plain(root, **settings)), world_size=world_size, memory_bytes=1000)
    assert [w for w in facts["warnings"] if w.startswith(warning)], facts["warnings"]


def test_nothing_to_warn_of(root):
    config = plain(root, training__batch=11, training__steps=20)
    assert explain_run(OpenData(config), world_size=2, memory_bytes=1 << 40)["warnings"] == []


def test_query_classes_without_a_shape_are_told(tmp_path):
    kept = [r for r in records(tmp_path / "raw") if (r.split, r.label) != ("test", "class1")]
    pack(kept, tmp_path / "set", dataset="tiny")
    facts = explain_run(OpenData(plain(tmp_path / "set")), world_size=1)
    assert facts["queries"]["missing_in_gallery"] == ["class1"]
    assert "queries: no shape of the gallery is of class class1" in facts["warnings"]


# ---- the commands --------------------------------------------------------------------------------


def test_explain_command(root, capfd):
    arguments = ("data", "explain", CONFIGS / "astn.yaml", *overrides(root), "--workers", 5)
    result = call(capfd, *arguments, "--json").json
    assert result == explain_run(OpenData(plain(root)), world_size=5)
    shown = call(capfd, *arguments)
    assert shown.code == 0
    for text in ("target_shapes", "hidden", "shape/test", "warning: source_images: the last batch"):
        assert text in shown.out


def test_replay_command(root, capfd):
    arguments = ("data", "replay", CONFIGS / "astn.yaml", *overrides(root), "--workers", 3)
    result = call(capfd, *arguments, "--step", 2, "--json").json
    assert result == replay_step(OpenData(plain(root)), step=2, world_size=3)
    shown = call(capfd, *arguments, "--step", 2)
    for key in result["streams"]["target_shapes"]["keys"]:
        assert key in shown.out
    assert "training.steps" in call(capfd, *arguments, "--step", 70).complaint


def test_methods_that_only_walk_a_stream(root, capfd):
    arguments = (CONFIGS / "meda.yaml", *overrides(root, training__steps=2))
    facts = call(capfd, "data", "explain", *arguments, "--json").json
    assert facts["streams"]["target_shapes"]["drawn"] is False
    assert facts["streams"]["target_shapes"]["run_bytes"] is None
    shown = call(capfd, "data", "explain", *arguments)
    assert "target_shapes: looked at as a whole" in shown.out
    replayed = call(capfd, "data", "replay", *arguments, "--json").json
    assert set(replayed["streams"]) == {"source_images"}
