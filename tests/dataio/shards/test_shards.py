import errno
import hashlib
import json
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from webdataset.compat import WebDataset

from dataio.records import DataError
from dataio.shards.manifest import Manifest, Member
from dataio.shards.opening import load_manifest
from dataio.shards.reading import (
    ShardReader,
    as_webdataset,
    content_member,
    read_sample,
    verify_content,
    verify_shard,
)
from tests.dataio.packed import packed


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def broken(manifest, tmp_path):
    """A copy to damage: (its manifest, path of the shard of row 0)."""
    root = shutil.copytree(manifest.root, tmp_path / "copy")
    copy = load_manifest(root)
    return copy, root / copy.shards[copy.shard_ids[0]].name


def plain_samples(manifest: Manifest) -> dict[str, dict[str, bytes]]:
    """All samples as plain webdataset code reads them."""
    paths = [str(Path(manifest.root) / shard.name) for shard in manifest.shards]
    dataset = WebDataset(paths, shardshuffle=False)
    return {s["__key__"]: {k: v for k, v in s.items() if k[0] != "_"} for s in dataset}


def test_plain_webdataset_reads_the_same_samples(manifest):
    plain = plain_samples(manifest)
    assert list(plain) == manifest.keys
    reader = ShardReader(manifest.root, manifest.shards)
    for row, key in enumerate(manifest.keys):
        assert read_sample(manifest, row, reader=reader) == plain[key]


def test_samples_hold_what_they_should(manifest):
    reader = ShardReader(manifest.root, manifest.shards, max_open=1)
    for row in range(len(manifest)):
        sample = read_sample(manifest, row, reader=reader)
        about = json.loads(sample["json"])
        assert about["key"] == manifest.keys[row]
        assert about["label"] == manifest.labels[row]
        assert int(sample["cls"]) == manifest.class_ids[row]
        content = sample[content_member(manifest, row).suffix]
        assert hashlib.sha256(content).hexdigest() == manifest.content_sha256[row]
        verify_content(manifest, row, reader=reader)
    for shard_id in range(len(manifest.shards)):
        verify_shard(manifest, shard_id)


def test_as_webdataset_decodes(manifest):
    samples = list(as_webdataset(manifest.root, "shape", "train").decode("rgb8"))
    assert {s["__key__"] for s in samples} == {
        manifest.keys[row] for row in manifest.select("shape", "train")
    }
    first = samples[0]
    assert first["views.jpg"].shape == (5 * 32, 32, 3)
    assert isinstance(first["cls"], int)
    assert first["json"]["views"] == 5
    with pytest.raises(DataError, match="it holds"):
        as_webdataset(manifest.root, "sketch", "train")


def test_the_reader_travels_and_is_shared(manifest):
    reader = ShardReader(manifest.root, manifest.shards, max_open=2)
    expected = [read_sample(manifest, row, reader=reader) for row in range(len(manifest))]
    copy = pickle.loads(pickle.dumps(reader))
    assert read_sample(manifest, 3, reader=copy) == expected[3]
    with ThreadPoolExecutor(4) as pool:
        rows = list(range(len(manifest))) * 5
        results = pool.map(lambda row: read_sample(manifest, row, reader=reader), rows)
        assert list(results) == expected * 5
    reader.close()
    assert read_sample(manifest, 0, reader=reader) == expected[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_reader_survives_fork(manifest):
    reader = ShardReader(manifest.root, manifest.shards)
    expected = read_sample(manifest, 5, reader=reader)
    reader._lock.acquire()  # as another thread of the parent might
    child = os.fork()
    if child == 0:
        os._exit(0 if read_sample(manifest, 5, reader=reader) == expected else 1)
    reader._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert read_sample(manifest, 5, reader=reader) == expected


def test_a_shard_cut_short(broken):
    manifest, path = broken
    path.write_bytes(path.read_bytes()[:700])
    key = manifest.keys[0]
    reader = ShardReader(manifest.root, manifest.shards)
    with pytest.raises(DataError, match=rf"{key}.*{path.name}.*bytes.*pack again"):
        read_sample(manifest, 0, reader=reader)
    unverified = ShardReader(manifest.root, manifest.shards, verify=False)
    with pytest.raises(DataError, match=rf"{key}.*{path.name}: ends before byte.*pack again"):
        read_sample(manifest, 0, reader=unverified)


def test_a_shard_with_other_members(broken):
    manifest, path = broken
    data = path.read_bytes()
    path.write_bytes(data[512:] + data[:512])
    reader = ShardReader(manifest.root, manifest.shards)
    with pytest.raises(DataError, match=rf"{manifest.keys[0]}.*{path.name}.*changed.*pack again"):
        read_sample(manifest, 0, reader=reader)


def test_changed_pixels_are_found_by_their_hash(broken):
    manifest, path = broken
    member = content_member(manifest, 0)
    data = bytearray(path.read_bytes())
    data[member.offset + member.size // 2] ^= 0xFF
    path.write_bytes(data)
    reader = ShardReader(manifest.root, manifest.shards)
    with pytest.raises(DataError, match=rf"{path.name}.*{manifest.keys[0]}.*other content"):
        verify_content(manifest, 0, reader=reader)
    verify_content(manifest, 1, reader=reader)
    with pytest.raises(DataError, match=rf"{path.name}: SHA-256 differs"):
        verify_shard(manifest, int(manifest.shard_ids[0]))


def test_a_missing_shard(broken):
    manifest, path = broken
    path.unlink()
    with pytest.raises(DataError, match=rf"{manifest.keys[0]}.*{path.name}: cannot open"):
        read_sample(manifest, 0, reader=ShardReader(manifest.root, manifest.shards))
    with pytest.raises(DataError, match="cannot read"):
        verify_shard(manifest, int(manifest.shard_ids[0]))


def test_a_shard_that_is_gone_under_an_open_file(manifest, monkeypatch):
    """On a network file system a file that another machine has removed is stale, not readable."""

    def stale(file: int, size: int, offset: int) -> bytes:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    reader = ShardReader(manifest.root, manifest.shards)
    member = manifest.members[0][0]
    whole = reader.read(0, member)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", stale)
        with pytest.raises(DataError, match=rf"{manifest.shards[0].name}: cannot read.*copy it"):
            reader.read(0, member)
    assert reader.read(0, member) == whole  # from the file that is there by then


def test_a_range_outside_the_shard(manifest):
    reader = ShardReader(manifest.root, manifest.shards)
    with pytest.raises(DataError, match="pack again"):
        reader.read(0, Member("jpg", 10**9, 10))
