import dataclasses
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from dataio.loading import plan
from dataio.loading.batch import Batch
from dataio.loading.loader import walk
from dataio.loading.sources import StreamSource
from dataio.records import DataError
from dataio.shards import location
from dataio.shards.manifest import MANIFEST_NAME, Manifest, union, write_manifest
from dataio.shards.opening import load_manifest
from dataio.shards.quarantine import Quarantine, QuarantinedSample, write_quarantine
from dataio.shards.reading import (
    ShardReader,
    as_webdataset,
    read_sample,
    verify_content,
    verify_shard,
)
from dataio.shards.shard_cache import ShardCache, node_cache
from tests.dataio.faulty_server import FaultyServer
from tests.dataio.packed import open_loader, packed

Step = tuple[int, dict[str, Batch]]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(location, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("IMG2SHAPE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("remote"))


@pytest.fixture
def server(local) -> Iterator[FaultyServer]:
    with FaultyServer(Path(local.root)) as server:
        yield server


@pytest.fixture
def copied(local, tmp_path) -> Iterator[FaultyServer]:
    """Serves a copy to change."""
    with FaultyServer(Path(shutil.copytree(local.root, tmp_path / "copy"))) as server:
        yield server


def sources(manifest: Manifest) -> dict[str, StreamSource]:
    return {
        name: StreamSource(manifest, manifest.select(stream, "train"), manifest.classes, True, 24)
        for name, stream in (("source", "image"), ("target", "shape"))
    }


def load(manifest: Manifest, **options) -> list[Step]:
    settings = {"batch": 4, "seed": 5, "steps": 9, "block_shards": 1, **options}
    with open_loader(sources(manifest), **settings) as loader:
        return list(loader)


def assert_equal(first: list[Step], second: list[Step]) -> None:
    assert [step for step, _ in first] == [step for step, _ in second]
    for (_, a), (_, b) in zip(first, second, strict=True):
        for name in a:
            assert a[name].keys == b[name].keys
            assert torch.equal(a[name].pixels, b[name].pixels)
            assert torch.equal(a[name].label, b[name].label)


def test_the_manifest_is_that_of_the_folder(local, server):
    remote = load_manifest(f"{server.url}/")
    assert remote.root == server.url
    for field in dataclasses.fields(Manifest):
        if field.name != "root":
            assert np.array_equal(getattr(remote, field.name), getattr(local, field.name))
    assert load_manifest(f"file://{local.root}").root == local.root
    (shape,) = {request.name for request in server.requests} - {"quarantine.json"}
    assert shape == MANIFEST_NAME  # shards are looked at when they are read


def test_there_is_no_manifest(server):
    with pytest.raises(DataError, match=rf"^{server.url}/none: not a packed data set \(no man"):
        load_manifest(f"{server.url}/none")
    server.plant(MANIFEST_NAME, 403)
    with pytest.raises(DataError, match=rf"{MANIFEST_NAME}: not allowed \(HTTP 403\)"):
        load_manifest(server.url)


def test_a_damaged_manifest(copied):
    copied.plant(MANIFEST_NAME, "wrong")
    (copied.folder / MANIFEST_NAME).write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=rf"{copied.url}/{MANIFEST_NAME}: not a readable manifest"):
        load_manifest(copied.url)


def test_the_manifest_is_read_through_faults_and_each_time(copied):
    copied.plant(MANIFEST_NAME, "reset", "truncate", 503)
    before = load_manifest(copied.url)
    write_quarantine(
        copied.folder,
        Quarantine((QuarantinedSample(before.keys[0], before.content_sha256[0], "cut"),)),
    )
    assert load_manifest(copied.url).keys == before.keys[1:]
    assert load_manifest(copied.url, quarantined=False).keys == before.keys


def test_nothing_is_written_to_a_url(server):
    with pytest.raises(DataError, match=rf"^{server.url}: a data set is written to a folder"):
        write_manifest(load_manifest(server.url))


def test_samples_are_those_of_the_folder(local, server):
    remote = load_manifest(server.url)
    reader = ShardReader(remote.root, remote.shards, max_open=2)
    own = ShardReader(local.root, local.shards)
    for row in range(len(local)):
        assert read_sample(remote, row, reader=reader) == read_sample(local, row, reader=own)
        verify_content(remote, row, reader=reader)
    assert all(server.asked(shard.name) == 1 for shard in local.shards)
    assert node_cache().misses == len(local.shards)


def test_a_union_of_places(local, server, tmp_path):
    changed = dataclasses.replace(load_manifest(server.url), metadata={}, fingerprint="0" * 64)
    both = union([local, changed])
    assert both.shards[-1].name == f"{server.url}/{local.shards[-1].name}"
    cache = ShardCache(tmp_path / "own", limit_bytes=10**9)
    reader = ShardReader(both.root, both.shards, cache=cache)
    for row in (0, len(local) - 1, len(local), len(both) - 1):
        verify_content(both, row, reader=reader)
    for shard_id in range(len(both.shards)):
        verify_shard(both, shard_id)
    assert 0 < cache.misses <= 2
    source = StreamSource(both, both.select("image", "train"), both.classes, True, 24)
    pixels = torch.cat([batch.pixels for batch in walk(source, batch=8)])
    assert torch.equal(pixels[:22], pixels[22:])


def test_webdataset_reads_cached_files(local, server, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", None)  # a URL in webdataset's hands runs curl
    samples = list(as_webdataset(server.url, "shape", "train"))
    assert [s["__key__"] for s in samples] == [
        s["__key__"] for s in as_webdataset(local.root, "shape", "train")
    ]
    assert all(s["__url__"].startswith(str(node_cache().folder)) for s in samples)
    monkeypatch.setenv("IMG2SHAPE_CACHE_GB", "0.00001")
    with pytest.raises(DataError, match=r"needs \d+ bytes at once, the cache .* limited to 10000;"):
        as_webdataset(server.url, "shape", "train")


def test_verify_shard_looks_at_the_url_and_not_at_the_cache(copied):
    remote = load_manifest(copied.url)
    read_sample(remote, 0, reader=ShardReader(remote.root, remote.shards))
    verify_shard(remote, 0)
    path = copied.folder / remote.shards[0].name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match=rf"{copied.url}/{path.name}: SHA-256 differs"):
        verify_shard(remote, 0)
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name}: not found"):
        verify_shard(remote, 0)


def test_a_shard_that_cannot_be_had(copied):
    remote = load_manifest(copied.url)
    name = remote.shards[remote.shard_ids[0]].name
    (copied.folder / name).unlink()
    expected = rf"sample '{remote.keys[0]}': {copied.url}/{name}: not found; check the address"
    with pytest.raises(DataError, match=expected):
        read_sample(remote, 0, reader=ShardReader(remote.root, remote.shards))
    source = StreamSource(remote, np.array([0]), remote.classes, True, 24)
    with pytest.raises(DataError, match=expected):
        list(walk(source, batch=1))


def test_damage_in_the_cache_is_told_with_the_file(server):
    remote = load_manifest(server.url)
    shard = remote.shards[remote.shard_ids[0]]
    kept = node_cache().fetch(f"{server.url}/{shard.name}", shard.sha256, shard.size_bytes)
    kept.write_bytes(bytes(shard.size_bytes))
    with pytest.raises(DataError, match=rf"{server.url}/{shard.name} \(kept in {kept}\): no \.\w+"):
        read_sample(remote, 0, reader=ShardReader(remote.root, remote.shards))


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_and_walk_serve_the_same_batches(local, server, workers):
    remote = load_manifest(server.url)
    assert_equal(load(remote, workers=workers), load(local))
    for mine, own in zip(sources(remote).values(), sources(local).values(), strict=True):
        for a, b in zip(walk(mine, batch=4, workers=workers), walk(own, batch=4), strict=True):
            assert torch.equal(a.pixels, b.pixels)
    assert all(server.asked(shard.name) <= 1 for shard in local.shards)


def test_batches_through_faults(local, server, monkeypatch):
    monkeypatch.setenv("IMG2SHAPE_READ_TIMEOUT_SECONDS", "0.3")
    faults = ("reset", "truncate", 503, "wrong", "stall", "drip", 500)
    for fault, shard in zip(faults, local.shards, strict=False):
        server.plant(shard.name, fault)
    assert len(local.shards) >= len(faults)
    assert_equal(load(load_manifest(server.url)), load(local))
    assert node_cache().refetches == 1


@pytest.mark.parametrize("block_shards", [1, 3])
def test_a_tiny_cache_serves_the_same_batches(local, server, monkeypatch, caplog, block_shards):
    largest = max(shard.size_bytes for shard in local.shards)
    monkeypatch.setenv("IMG2SHAPE_CACHE_GB", str((largest + 10) / 1e9))
    with caplog.at_level(logging.WARNING):
        remote = load(load_manifest(server.url), block_shards=block_shards, steps=4)
    assert_equal(remote, load(local, block_shards=block_shards, steps=4))
    cache = node_cache()
    assert sum(p.stat().st_size for p in cache.folder.glob("*.tar")) <= cache.limit_bytes
    assert cache.misses > len({r.name for r in server.requests if r.name.endswith(".tar")})
    assert caplog.text.count("raise IMG2SHAPE_CACHE_GB") == 1


def test_a_reader_gives_back_the_space_of_evicted_shards(local, server, tmp_path):
    largest = max(shard.size_bytes for shard in local.shards)
    remote = load_manifest(server.url)
    cache = ShardCache(tmp_path / "own", limit_bytes=largest + 10)
    reader = ShardReader(remote.root, remote.shards, cache=cache)
    for shard_id in range(3):
        row = int(np.flatnonzero(remote.shard_ids == shard_id)[0])
        verify_content(remote, row, reader=reader)
    assert list(reader._files) == [1, 2]  # 1 was evicted for 2, after 2 had looked


def test_memory(local, monkeypatch):
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.store", {})
    files = fsspec.filesystem("memory")
    for path in Path(local.root).iterdir():
        if path.is_file():
            files.pipe_file(f"memory://sets/tiny/{path.name}", path.read_bytes())
    remote = load_manifest("memory://sets/tiny")
    assert_equal(load(remote), load(local))
    verify_shard(remote, 0)
    with pytest.raises(DataError, match="memory://sets/none: not a packed data set"):
        load_manifest("memory://sets/none")


def blocks_of(visited: list[int], block_shards: int) -> list[set[int]]:
    """The shards of each block, told from the shards of a pass's samples in order."""
    blocks = [set[int]()]
    for shard in visited:
        if shard not in blocks[-1] and len(blocks[-1]) == block_shards:
            blocks.append(set())
        blocks[-1].add(shard)
    return blocks


@pytest.mark.parametrize(("batch", "block_shards"), [(4, 1), (4, 2), (30, 2), (100, 3), (7, 50)])
def test_upcoming_shards_are_those_that_come(batch, block_shards):
    shard_ids = np.repeat(np.arange(9) * 2, [3, 5, 1, 8, 2, 4, 6, 7, 9])
    order = plan.StreamOrder(shard_ids, seed=3, stream_id=1, block_shards=block_shards)
    steps = plan.steps_per_pass(len(shard_ids), batch)
    blocks = [blocks_of(shard_ids[order.order(p)].tolist(), block_shards) for p in range(3)]
    for step in range(2 * steps):
        pass_index = step // steps
        rows = plan.batch_at(order, step, batch)
        current = set(shard_ids[rows[rows != plan.PADDING]].tolist())
        following = [*blocks[pass_index], blocks[pass_index + 1][0]]
        here = [i for i, block in enumerate(blocks[pass_index]) if block & current]
        upcoming = order.upcoming(step, batch).tolist()
        assert set(upcoming) == set().union(*following[here[0] : here[-1] + 2])
        assert len(set(upcoming)) == len(upcoming)
        assert upcoming[0] in following[here[0]]
        assert upcoming[-1] in following[here[-1] + 1] or current >= following[here[-1] + 1]
    assert order.upcoming(1, batch).dtype == np.int64


def test_the_next_block_is_fetched_before_it_is_read(server):
    remote = load_manifest(server.url)
    source = sources(remote)["source"]
    shard_ids = remote.shard_ids[source.rows]
    order = plan.StreamOrder(
        shard_ids, seed=5, stream_id=plan.stream_number("source"), block_shards=1
    )
    shard_of_first = set(shard_ids[plan.batch_at(order, 0, 1)].tolist())
    expected = [int(i) for i in order.upcoming(0, 1) if i not in shard_of_first]
    assert len(shard_of_first) == len(expected) == 1
    with open_loader({"source": source}, batch=1, seed=5, steps=20, block_shards=1) as loader:
        next(iter(loader))
        server.wait_until_asked(remote.shards[expected[0]].name)
    wanted = {remote.shards[i].name for i in (*shard_of_first, *expected)}
    asked = {request.name for request in server.requests} - {MANIFEST_NAME, "quarantine.json"}
    assert asked == wanted  # and no more than that


def test_walk_fetches_the_next_shard(server):
    remote = load_manifest(server.url)
    walking = walk(sources(remote)["source"], batch=1)
    next(walking)
    first, second, *_ = dict.fromkeys(remote.shard_ids[remote.select("image", "train")].tolist())
    server.wait_until_asked(remote.shards[first].name, remote.shards[second].name)
    walking.close()
