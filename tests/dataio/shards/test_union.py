"""Several packed data sets as one: everything that reads a manifest works on their union."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dataio.loading.class_balance import Balance
from dataio.loading.loader import walk
from dataio.loading.sources import StreamSource
from dataio.packing.records_to_shards import pack
from dataio.records import DataError
from dataio.shards.manifest import Manifest, union, write_manifest
from dataio.shards.opening import load_manifest
from dataio.shards.reading import (
    ShardReader,
    content_member,
    read_sample,
    verify_content,
    verify_shard,
)
from tests.dataio.packed import open_loader, records

RENAMED = {"class0": "apple", "class1": "class1", "class2": "zebra"}


def pack_other(folder: Path, *, prefix: str) -> Manifest:
    """Other pictures: fewer samples, some class names shared with the plain set, one unlabelled."""

    def other():
        for record in records(folder / "raw", images=9, shapes=6, views=3):
            label = None if record.key == "photo-003" else RENAMED[str(record.label)]
            yield dataclasses.replace(record, key=prefix + record.key, label=label)

    return pack(other(), folder / "set", dataset="other", shard_size_bytes=12_000)


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> tuple[Manifest, Manifest]:
    folder = tmp_path_factory.mktemp("union")
    plain = pack(
        records(folder / "a" / "raw"), folder / "a" / "set", dataset="tiny", shard_size_bytes=12_000
    )
    return plain, pack_other(folder / "b", prefix="")


@pytest.fixture(scope="module")
def both(parts) -> Manifest:
    return union(parts)


def test_the_rows_are_those_of_all_parts_in_order(parts, both):
    assert len(both) == len(parts[0]) + len(parts[1])
    for name in ("streams", "splits", "labels", "content_sha256", "views"):
        whole = list(getattr(both, name))
        assert whole == [*getattr(parts[0], name), *getattr(parts[1], name)], name
    assert len(both.select("image", "train")) == 22 + 9


def test_classes_are_merged_by_name(both):
    assert both.classes == ("apple", "class0", "class1", "class2", "zebra")
    names = [both.classes[i] if i >= 0 else None for i in both.class_ids]
    assert names == both.labels.tolist()
    assert (both.class_ids == -1).sum() == 1


def test_keys_that_meet_get_their_parts_index(parts, both, tmp_path):
    assert both.keys == [f"{i}-{key}" for i, part in enumerate(parts) for key in part.keys]
    apart = union([parts[0], pack_other(tmp_path, prefix="other-")])
    assert apart.keys[: len(parts[0])] == parts[0].keys
    assert apart.keys[-1].startswith("other-")
    assert len(set(apart.keys)) == len(apart)


def test_every_sample_is_read_from_its_own_part(parts, both):
    reader = ShardReader(both.root, both.shards)
    start = 0
    for part in parts:
        own = ShardReader(part.root, part.shards)
        for row in range(len(part)):
            whole = read_sample(both, start + row, reader=reader)
            assert whole == read_sample(part, row, reader=own)
            verify_content(both, start + row, reader=reader)
        start += len(part)
    for shard_id in range(len(both.shards)):
        verify_shard(both, shard_id)


@pytest.mark.parametrize("workers", [0, 2])
def test_walk_and_loader_serve_the_union(parts, both, workers):
    source = StreamSource(both, both.select("shape", "train"), both.classes, True, 24)
    together = torch.cat([b.pixels for b in walk(source, batch=4, workers=workers)])
    assert together.shape[:2] == (10 + 5, 5)
    parts_of = [
        StreamSource(part, part.select("shape", "train"), both.classes, True, 24) for part in parts
    ]
    assert torch.equal(together[:10], torch.cat([b.pixels for b in walk(parts_of[0], batch=4)]))
    second = torch.cat([b.pixels for b in walk(parts_of[1], batch=4)])
    assert torch.equal(together[10:, :3], second)
    assert torch.equal(together[10:, 3:], second[:, :2])  # fewer views: repeated in turn
    options = {"seed": 0, "workers": workers, "cache": "ram"}
    with open_loader({"s": source}, batch=8, steps=2, **options) as loader:
        seen = sorted(row for _, batches in loader for row in batches["s"].row.tolist())
    assert seen == source.rows.tolist()
    with open_loader({"s": source}, balance=Balance(5, 2), steps=2, **options) as loader:
        for _, batches in loader:
            labels = batches["s"].label
            assert sorted(set(labels.tolist())) == [0, 1, 2, 3, 4]
            assert labels.tolist() == both.class_ids[batches["s"].row].tolist()


def test_the_fingerprint_follows_the_content_and_not_the_place(parts, both, tmp_path, monkeypatch):
    shutil.copytree(parts[0].root, tmp_path / "copy")
    moved = [load_manifest(tmp_path / "copy"), parts[1]]
    assert union(moved).fingerprint == both.fingerprint
    assert union(moved).metadata == both.metadata
    turned = union(parts[::-1])
    changed = dataclasses.replace(parts[1], keys=[*parts[1].keys[:-1], "x"], fingerprint="")
    prints = {m.fingerprint for m in (both, turned, union([parts[0], changed]), *parts)}
    assert len(prints) == 5
    monkeypatch.chdir(tmp_path)
    relative = union([load_manifest("copy"), parts[1]])
    monkeypatch.chdir("/")
    assert all(os.path.isabs(shard.name) for shard in relative.shards)
    assert content_member(relative, 0) == content_member(both, 0)
    verify_content(relative, 0, reader=ShardReader(relative.root, relative.shards))


def test_the_union_of_one_is_that_one_and_of_unions_is_flat_enough(parts, tmp_path):
    assert union(parts[:1]) is parts[0]
    third = pack_other(tmp_path, prefix="third-")
    nested = union([union(parts), third])
    assert len(nested) == sum(map(len, parts)) + len(third)
    assert len(set(nested.keys)) == len(nested)
    assert np.array_equal(np.unique(nested.shard_ids), np.arange(len(nested.shards)))
    verify_content(nested, len(nested) - 1, reader=ShardReader(nested.root, nested.shards))


def test_wrong_unions_are_refused(parts, both, tmp_path):
    with pytest.raises(DataError, match="at least one"):
        union([])
    shutil.copytree(parts[0].root, tmp_path / "copy")
    with pytest.raises(DataError, match=r"copy: the same data set as .*set; list it once"):
        union([*parts, load_manifest(tmp_path / "copy")])
    with pytest.raises(DataError, match="union of data sets is not written"):
        write_manifest(both)
    with pytest.raises(DataError, match=r"a/set \+ .*b/set: no samples of sketch/test; it holds"):
        both.select("sketch", "test")


def test_objects_of_two_data_sets_are_two_objects(parts):
    def named(part: Manifest, name: str) -> Manifest:
        return dataclasses.replace(part, instances=["", name, *[""] * (len(part) - 2)])

    first = named(parts[0], "chair/1")
    for other, shown in (
        ("chair/2", ("chair/1", "chair/2")),
        ("chair/1", ("0-chair/1", "1-chair/1")),
    ):
        both = union([first, named(parts[1], other)])
        kept = [name for name in both.instances if name]
        assert (kept, len(both.instances)) == (list(shown), len(both))
    assert union(parts).instances == [""] * (len(parts[0]) + len(parts[1]))
