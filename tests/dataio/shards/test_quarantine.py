import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dataio.records import DataError
from dataio.shards.manifest import Manifest
from dataio.shards.opening import load_manifest, without_quarantined
from dataio.shards.quarantine import (
    QUARANTINE_NAME,
    Quarantine,
    QuarantinedSample,
    RepairedShard,
    read_quarantine,
    write_quarantine,
)
from tests.dataio.packed import packed


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("quarantine"))


@pytest.fixture
def manifest(shared, tmp_path) -> Manifest:
    return load_manifest(shutil.copytree(shared.root, tmp_path / "set"))


def entry(manifest: Manifest, row: int) -> QuarantinedSample:
    return QuarantinedSample(manifest.keys[row], manifest.content_sha256[row], "for a test")


def test_no_file_is_an_empty_quarantine(manifest):
    assert read_quarantine(manifest.root) == Quarantine()
    assert without_quarantined(manifest, Quarantine()) is manifest


def test_what_is_written_is_read(manifest):
    quarantine = Quarantine(
        (entry(manifest, 3),), (RepairedShard(manifest.shards[0].name, 512, "f" * 64),)
    )
    path = write_quarantine(manifest.root, quarantine)
    assert path == Path(manifest.root) / "quarantine.json"
    assert read_quarantine(manifest.root) == quarantine
    tree = json.loads(path.read_text())
    assert tree["schema_version"] == 1
    assert tree["samples"] == [
        {
            "key": manifest.keys[3],
            "content_sha256": manifest.content_sha256[3],
            "reason": "for a test",
        }
    ]
    assert set(tree["shards"][0]) == {"name", "size_bytes", "sha256"}
    assert list(path.parent.glob("*.tmp")) == []


def test_loading_leaves_the_rows_out(manifest):
    rows = [0, 5, len(manifest) - 1]
    write_quarantine(manifest.root, Quarantine(tuple(entry(manifest, row) for row in rows)))
    left = load_manifest(manifest.root)
    kept = [row for row in range(len(manifest)) if row not in rows]
    assert left.keys == [manifest.keys[row] for row in kept]
    for name in ("streams", "splits", "labels", "class_ids", "shard_ids", "views"):
        assert np.array_equal(getattr(left, name), getattr(manifest, name)[kept])
    assert left.members == [manifest.members[row] for row in kept]
    assert left.content_sha256 == [manifest.content_sha256[row] for row in kept]
    assert left.classes == manifest.classes
    assert sum(shard.samples for shard in left.shards) == len(kept)
    assert left.fingerprint not in ("", manifest.fingerprint)
    whole = load_manifest(manifest.root, quarantined=False)
    assert (whole.keys, whole.fingerprint) == (manifest.keys, manifest.fingerprint)


def test_classes_stay_though_a_class_has_no_sample_left(manifest):
    rows = np.flatnonzero(manifest.labels == "class1").tolist()
    write_quarantine(manifest.root, Quarantine(tuple(entry(manifest, row) for row in rows)))
    left = load_manifest(manifest.root)
    assert left.classes == ("class0", "class1", "class2")
    assert set(left.class_ids.tolist()) == {0, 2}


def test_a_repaired_shard_is_taken_as_it_is(manifest):
    shard = manifest.shards[1]
    with open(Path(manifest.root) / shard.name, "ab") as file:
        file.write(bytes(100))
    with pytest.raises(DataError, match="the manifest says"):
        load_manifest(manifest.root)
    present = RepairedShard(shard.name, shard.size_bytes + 100, "0" * 64)
    write_quarantine(manifest.root, Quarantine((), (present,)))
    left = load_manifest(manifest.root)
    assert left.shards[1] == replace(shard, size_bytes=present.size_bytes, sha256=present.sha256)
    assert left.fingerprint == manifest.fingerprint  # every sample is as it was


def test_a_shard_without_samples_need_not_exist(manifest):
    (Path(manifest.root) / manifest.shards[2].name).unlink()
    with pytest.raises(DataError, match="shard is missing"):
        load_manifest(manifest.root)
    rows = np.flatnonzero(manifest.shard_ids == 2).tolist()
    write_quarantine(manifest.root, Quarantine(tuple(entry(manifest, row) for row in rows[1:])))
    with pytest.raises(DataError, match="shard is missing"):
        load_manifest(manifest.root)
    write_quarantine(manifest.root, Quarantine(tuple(entry(manifest, row) for row in rows)))
    left = load_manifest(manifest.root)
    assert left.shards[2].samples == 0
    assert len(left) == len(manifest) - len(rows)


@pytest.mark.parametrize("change", ["key", "content_sha256"])
def test_a_quarantine_of_other_data_is_refused(manifest, change):
    stale = replace(entry(manifest, 3), **{change: "a" * 64})
    write_quarantine(manifest.root, Quarantine((stale,)))
    with pytest.raises(DataError, match=r"packed again; delete quarantine\.json") as caught:
        load_manifest(manifest.root)
    assert stale.key in str(caught.value)
    assert QUARANTINE_NAME in str(caught.value)


def test_an_unknown_shard_is_refused(manifest):
    write_quarantine(manifest.root, Quarantine((), (RepairedShard("other.tar", 1, "0"),)))
    with pytest.raises(DataError, match=r"other\.tar is not in the manifest"):
        load_manifest(manifest.root)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting property name"),
        ('{"schema_version": 2, "samples": [], "shards": []}', "schema version 2"),
        ('{"schema_version": 1, "samples": [{"key": "a"}], "shards": []}', "missing 2 required"),
        ('{"schema_version": 1, "samples": []}', "'shards'"),
        ("[]", "indices must be integers"),
    ],
)
def test_a_damaged_file_is_refused(manifest, text, reason):
    (Path(manifest.root) / QUARANTINE_NAME).write_text(text)
    with pytest.raises(DataError, match="not a readable quarantine") as caught:
        load_manifest(manifest.root)
    assert reason in str(caught.value)
    assert "delete quarantine.json" in str(caught.value)


def test_a_url_is_not_written_to():
    with pytest.raises(DataError, match="not a folder"):
        write_quarantine("https://example.org/set", Quarantine())


def test_the_others_keep_their_instances(manifest):
    names = [f"object-{row}" for row in range(len(manifest))]
    named = replace(manifest, instances=names)
    kept = without_quarantined(named, Quarantine((entry(manifest, 3),), ()))
    assert kept.instances == names[:3] + names[4:]
