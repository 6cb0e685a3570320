import errno
import fcntl
import hashlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataio.records import DataError
from dataio.shards import location
from dataio.shards.shard_cache import ShardCache, node_cache
from tests.dataio.faulty_server import FaultyServer

SIZE = 5000
Entry = tuple[str, str, int]


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(location, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.tar").write_bytes(bytes([i]) * SIZE)
    with FaultyServer(folder) as server:
        yield server


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache", limit_bytes=3 * SIZE)


def entry(server: FaultyServer, i: int) -> Entry:
    content = (server.folder / f"{i}.tar").read_bytes()
    return f"{server.url}/{i}.tar", hashlib.sha256(content).hexdigest(), len(content)


def held(cache: ShardCache) -> list[int]:
    """The shards in the cache, by the byte that each consists of."""
    return sorted(path.read_bytes()[0] for path in cache.folder.glob("*.tar"))


def names(cache: ShardCache) -> set[str]:
    return {path.suffix or path.name for path in cache.folder.iterdir()}


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_a_shard_is_fetched_once_and_named_by_its_hash(server, cache):
    url, sha256, size = entry(server, 1)
    path = cache.fetch(url, sha256, size)
    assert path == cache.folder / f"{sha256}.tar"
    assert path.read_bytes() == bytes([1]) * SIZE
    assert cache.fetch("http://elsewhere/same.tar", sha256, size) == path
    assert server.asked("1.tar") == 1
    counters = (cache.hits, cache.misses, cache.refetches, cache.bytes_fetched)
    assert counters == (1, 1, 0, SIZE)
    assert names(cache) == {".tar", ".lock"}


@pytest.mark.parametrize("fault", ["reset", "truncate", "drip", 500, 503])
def test_faults_on_the_way_heal(server, cache, fault, monkeypatch):
    monkeypatch.setattr(location, "_BLOCK_BYTES", 2000)
    server.plant("1.tar", fault, fault)
    assert cache.fetch(*entry(server, 1)).read_bytes() == bytes([1]) * SIZE


def test_damaged_on_the_way_once(server, cache):
    server.plant("1.tar", "wrong")
    assert cache.fetch(*entry(server, 1)).read_bytes() == bytes([1]) * SIZE
    assert (server.asked("1.tar"), cache.refetches, cache.misses) == (2, 1, 1)


def test_damaged_for_good(server, cache):
    server.plant("1.tar", "wrong", always=True)
    url, sha256, size = entry(server, 1)
    expected = rf"{url}: shard has {size} bytes and SHA-256 \w{{64}}, the manifest says {size} and "
    with pytest.raises(DataError, match=rf"{expected}{sha256}; upload it again or pack again"):
        cache.fetch(url, sha256, size)
    assert server.asked("1.tar") == 2
    assert names(cache) == {".lock"}


@pytest.mark.parametrize(("actual", "found"), [(3000, 3000), (7000, 5000)])
def test_a_shard_of_another_size(server, cache, actual, found):
    url, sha256, size = entry(server, 1)
    (server.folder / "1.tar").write_bytes(bytes([9]) * actual)
    with pytest.raises(DataError, match=rf"1.tar: shard has {found} bytes .* manifest says 5000"):
        cache.fetch(url, sha256, size)
    told = pytest.raises(DataError, match=rf"1.tar: shard has {actual} bytes")
    with FaultyServer(server.folder, ranges=False) as whole, told:
        cache.fetch(f"{whole.url}/1.tar", sha256, size)
    assert names(cache) == {".lock"}


def test_a_long_first_answer_leaves_no_tail(server, cache, tmp_path):
    url, sha256, size = entry(server, 1)
    longer = tmp_path / "longer"
    longer.mkdir()
    (longer / "x.tar").write_bytes(bytes([9]) * 9000)
    with FaultyServer(longer, ranges=False) as whole:
        (server.folder / "1.tar").touch()
        server.plant("1.tar", f"{whole.url}/x.tar")
        assert cache.fetch(url, sha256, size).stat().st_size == size
    assert cache.refetches == 1


def test_a_file_of_the_wrong_size_is_replaced(server, cache):
    path = cache.fetch(*entry(server, 1))
    path.write_bytes(b"cut")
    assert cache.fetch(*entry(server, 1)).stat().st_size == SIZE
    assert server.asked("1.tar") == 2


def test_the_least_recently_used_goes(server, cache):
    for i in (0, 1, 2):
        os.utime(cache.fetch(*entry(server, i)), (i, i))
    cache.fetch(*entry(server, 0))  # now used last
    cache.fetch(*entry(server, 3))
    assert held(cache) == [0, 2, 3]
    cache.fetch(*entry(server, 4))
    assert held(cache) == [0, 3, 4]


def test_an_evicted_shard_stays_readable_to_who_has_it_open(server, cache):
    cache.limit_bytes = SIZE
    file = cache.open(*entry(server, 0))
    for i in (1, 2):
        cache.fetch(*entry(server, i))
        assert held(cache) == [i]
    assert os.pread(file, SIZE, 0) == bytes([0]) * SIZE
    os.close(file)


def test_a_shard_evicted_between_fetch_and_open_is_fetched_again(server, cache, monkeypatch):
    fetch = ShardCache.fetch

    def evicted_at_first(self, *args) -> Path:
        path = fetch(self, *args)
        if self.misses == 1:
            path.unlink()
        return path

    monkeypatch.setattr(ShardCache, "fetch", evicted_at_first)
    file = cache.open(*entry(server, 0))
    assert os.pread(file, 10, 0) == bytes(10)
    os.close(file)
    assert cache.misses == 2


def test_a_small_cache_is_told_once(server, cache, caplog):
    cache.limit_bytes = SIZE
    with caplog.at_level(logging.WARNING):
        for i in (0, 1, 0, 1, 0):
            cache.fetch(*entry(server, i))
    assert caplog.text.count("fetched again") == 1
    assert "raise IMG2SHAPE_CACHE_GB" in caplog.text


def test_a_shard_larger_than_the_cache(server, cache):
    cache.limit_bytes = SIZE - 1
    expected = r"1.tar: a shard of 5000 bytes, but the cache .* limited to 4999; raise IMG2SHAPE_C"
    with pytest.raises(DataError, match=expected):
        cache.fetch(*entry(server, 1))
    assert server.requests == []


def test_a_manifest_cannot_name_other_files(server, cache):
    with pytest.raises(DataError, match="damaged manifest"):
        cache.fetch(f"{server.url}/1.tar", "../" * 20 + "x", SIZE)


def test_a_full_disk(server, cache, monkeypatch):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    expected = r"cache: the disk is full, http.*1.tar does not fit; free space, lower IMG2SHAPE_CA"
    with pytest.raises(DataError, match=expected):
        cache.fetch(*entry(server, 1))
    assert names(cache) == {".lock"}


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").touch()
    cache = ShardCache(tmp_path / "file" / "cache", limit_bytes=SIZE)
    with pytest.raises(
        DataError, match=r"cannot keep shards here \(Not a dir.*set IMG2SHAPE_CACHE"
    ):
        cache.fetch(*entry(server, 1))


def test_left_over_files_go_and_those_being_written_stay(server, cache):
    cache.folder.mkdir()
    left_over, writing = cache.folder / "a.part", cache.folder / "b.part"
    left_over.write_bytes(bytes(3 * SIZE))
    writing.write_bytes(bytes(SIZE))
    with open(writing, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for i in (0, 1, 2):
            cache.fetch(*entry(server, i))
        assert not left_over.exists()
        assert writing.exists()
        assert len(held(cache)) == 2  # the third place is being written to


def test_fetching_waits_while_others_take_all_room(server, cache):
    cache.folder.mkdir()
    writing = cache.folder / "b.part"
    writing.write_bytes(bytes(3 * SIZE))
    thread = threading.Thread(target=cache.fetch, args=entry(server, 0))
    with open(writing, "rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread.start()
        wait_for(lambda: len(list(cache.folder.glob("*.part"))) == 2)
        thread.join(0.2)
        assert thread.is_alive()
        assert server.requests == []
    thread.join(20)
    assert held(cache) == [0]


def test_threads_fetch_a_shard_once(server, cache):
    threads = [threading.Thread(target=cache.fetch, args=entry(server, 0)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked("0.tar") == 1
    assert (cache.hits, cache.misses) == (7, 1)
    assert names(cache) == {".tar", ".lock"}


FETCHING = """
    import sys
    from dataio.shards.shard_cache import ShardCache
    cache = ShardCache(sys.argv[1], limit_bytes=int(sys.argv[2]))
    print("ready", flush=True)
    sys.stdin.readline()
    for line in sys.argv[3:]:
        url, sha256, size = line.split()
        cache.fetch(url, sha256, int(size))
    print(cache.misses)
"""


def fetching(cache: ShardCache, entries: list[Entry]) -> subprocess.Popen[str]:
    """A process that fetches `entries` once it is told to."""
    arguments = [cache.folder, cache.limit_bytes, *(" ".join(map(str, one)) for one in entries)]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(FETCHING), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_processes_fetch_each_shard_once(server, cache):
    cache.limit_bytes = 6 * SIZE
    entries = [entry(server, i) for i in range(6)]
    processes = [fetching(cache, entries) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    misses = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(misses) == 6
    assert [server.asked(f"{i}.tar") for i in range(6)] == [1] * 6
    assert held(cache) == list(range(6))


def test_a_killed_process_leaves_nothing_that_matters(server, cache):
    server.plant("0.tar", "stall")
    process = fetching(cache, [entry(server, 0)])
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    server.wait_until_asked("0.tar")
    wait_for(lambda: [p.stat().st_size for p in cache.folder.glob("*.part")] == [SIZE])
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert len(list(cache.folder.glob("*.part"))) == 1
    cache.fetch(*entry(server, 1))  # another shard's fetch clears it away
    assert names(cache) == {".tar", ".lock"}
    assert cache.fetch(*entry(server, 0)).read_bytes() == bytes(SIZE)


def test_prefetch(server, cache):
    owner, entries = threading.Event(), [entry(server, i) for i in (0, 1)]
    server.plant("0.tar", 404)
    cache.prefetch(entries, owner=owner)
    wait_for(lambda: cache.misses == 1)
    assert held(cache) == [1]  # the fault of 0 is not told
    cache.prefetch(entries, owner=owner)  # the same again: nothing to do
    cache.prefetch([entry(server, 2)], owner=owner)
    wait_for(lambda: cache.misses == 2)
    assert [server.asked(f"{i}.tar") for i in (0, 1, 2)] == [1, 1, 1]
    assert cache.fetch(*entry(server, 0)).exists()
    assert (cache.hits, cache.misses) == (0, 3)


def test_prefetch_pushes_nothing_out_that_is_needed(server, cache):
    first, second = threading.Event(), threading.Event()
    for i in (0, 1):
        cache.fetch(*entry(server, i))
    cache.prefetch([entry(server, i) for i in (0, 1)], owner=first)
    cache.prefetch([entry(server, i) for i in (2, 3)], owner=second)  # 4 in all, room for 3
    cache.prefetch([entry(server, i) for i in (1, 4)], owner=first)  # still 4
    cache.fetch(*entry(server, 5))
    assert held(cache) == [0, 1, 5]
    cache.fetch(*entry(server, 2))
    assert held(cache) == [1, 2, 5]  # 0 went: nobody needs it any more
    del first  # its needs go with it
    cache.prefetch([entry(server, i) for i in (2, 3)], owner=threading.Event())
    wait_for(lambda: server.asked("3.tar") == 1)
    assert server.asked("4.tar") == 0


def test_copies_share_the_folder_and_nothing_else(server, cache):
    cache.fetch(*entry(server, 0))
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.folder, copy.limit_bytes) == (cache.folder, cache.limit_bytes)
    copy.fetch(*entry(server, 0))
    assert (copy.hits, copy.misses) == (1, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_cache_survives_fork(server, cache):
    cache.prefetch([entry(server, 0)], owner=cache)
    wait_for(lambda: cache.misses == 1)
    cache._lock.acquire()  # as a thread of the parent might
    child = os.fork()
    if child == 0:
        try:
            cache.fetch(*entry(server, 1))
            cache.prefetch([entry(server, 2)], owner=cache)
            wait_for(lambda: cache.misses == 3)
            os._exit(0)
        finally:
            os._exit(1)
    cache._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert held(cache) == [0, 1, 2]


def test_the_cache_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("IMG2SHAPE_CACHE", str(tmp_path))
    monkeypatch.setenv("IMG2SHAPE_CACHE_GB", "0.5")
    assert (node_cache().folder, node_cache().limit_bytes) == (tmp_path, 500_000_000)
    assert node_cache() is node_cache()
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("IMG2SHAPE_CACHE")
    monkeypatch.delenv("IMG2SHAPE_CACHE_GB")
    assert node_cache().folder == Path("/home/somebody/.cache/img2shape/shards")
    assert node_cache().limit_bytes == 50 * 10**9
    monkeypatch.setenv("IMG2SHAPE_CACHE_GB", "many")
    with pytest.raises(DataError, match="IMG2SHAPE_CACHE_GB=many"):
        node_cache()
