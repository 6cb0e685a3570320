"""The cache in memory: shared by the workers, bounded, and gone with its processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from dataio.loading import ram_cache
from dataio.loading.ram_cache import RamCache
from dataio.loading.sources import StreamSource
from dataio.shards.manifest import Manifest
from tests.dataio.loading.test_loader import assert_equal
from tests.dataio.loading.test_loader_processes import children
from tests.dataio.packed import open_loader, packed

SIDE = 24


def source(manifest: Manifest, stream: str) -> StreamSource:
    return StreamSource(manifest, manifest.select(stream, "train"), manifest.classes, True, SIDE)


def pictures(seed: int, views: int, channels: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8) for _ in range(views)]


def held(cache: RamCache, position: int, views: list[int], channels: int = 3) -> np.ndarray | None:
    starts, found = cache.places(np.array([position]))
    if found[0] == 0:
        return None
    out = np.empty((len(views), channels, SIDE, SIDE), dtype=np.uint8)
    cache.copy(int(starts[0]), int(found[0]), np.array(views), out=out)
    return out.transpose(0, 2, 3, 1)


def test_grey_and_colour_are_kept_and_grey_takes_a_third():
    cache = RamCache(5, side=SIDE, limit_bytes=100 * SIDE**2, processes=0)
    grey, colour = pictures(0, 4, 1), pictures(1, 2, 3)
    cache.add(3, grey)
    assert cache.used_bytes == 4 * SIDE**2
    cache.add(0, colour)
    assert cache.used_bytes == 10 * SIDE**2
    assert held(cache, 1, [0]) is None
    for views in ([0, 1, 2, 3], [3, 1, 1]):
        expected = np.stack([grey[v] for v in views])
        assert np.array_equal(held(cache, 3, views, channels=1), expected)
        assert np.array_equal(held(cache, 3, views), np.repeat(expected, 3, axis=3))
    assert np.array_equal(held(cache, 0, [1, 0]), np.stack(colour[::-1]))


def test_the_limit_holds_and_a_sample_is_kept_once():
    cache = RamCache(5, side=SIDE, limit_bytes=10 * SIDE**2, processes=0)
    first = pictures(0, 4, 1)
    cache.add(1, first)
    cache.add(1, pictures(9, 4, 1))
    assert np.array_equal(held(cache, 1, [0], channels=1)[0], first[0])
    assert cache.has_room(6)
    assert not cache.has_room(7)
    cache.add(2, pictures(1, 7, 1))
    assert held(cache, 2, [0]) is None
    cache.add(4, pictures(2, 2, 3))
    assert cache.used_bytes == 10 * SIDE**2
    tiny = RamCache(3, side=SIDE, limit_bytes=SIDE**2 - 1, processes=2)
    assert not tiny.has_room(1)


def fill(cache: RamCache, positions: range) -> None:
    for position in positions:
        cache.add(position, pictures(position, 2, 1))


def test_processes_write_to_the_same_memory():
    cache = RamCache(40, side=SIDE, limit_bytes=70 * SIDE**2, processes=3)
    context = multiprocessing.get_context("forkserver")
    parts = [range(0, 30), range(10, 40), range(0, 40)]
    workers = [context.Process(target=fill, args=(cache, part)) for part in parts]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert cache.used_bytes == 70 * SIDE**2  # filled to the brim, no sample twice
    _, channels = cache.places(np.arange(40))
    assert (channels == 1).sum() == 35
    for position in np.flatnonzero(channels).tolist():
        expected = np.stack(pictures(position, 2, 1))
        assert np.array_equal(held(cache, position, [0, 1], channels=1), expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_workers_decoded_serves_later_workers(tmp_path, workers):
    manifest = packed(tmp_path)
    sources = {"photos": source(manifest, "image"), "shapes": source(manifest, "shape")}
    loader = open_loader(sources, batch=5, seed=1, steps=12, workers=workers, cache="ram")
    first = list(loader)
    used = sum(loader._batches.stream(name).reader._cache.used_bytes for name in sources)
    assert used == (22 * 3 + 10 * 5) * SIDE**2  # every sample once: photos in colour, views grey
    for shard in Path(manifest.root).glob("*.tar"):
        shard.unlink()
    assert_equal(first, list(loader))


def test_without_shared_memory_each_process_keeps_its_own(tmp_path, monkeypatch, caplog):
    def refused(name: str) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused)
    monkeypatch.setattr(ram_cache, "_warned", False)
    caches = [RamCache(4, side=SIDE, limit_bytes=12 * SIDE**2, processes=3) for _ in range(2)]
    assert caplog.text.count("training.cache=ram") == 1
    assert "Function not implemented" in caplog.text
    assert caches[0].has_room(4)
    assert not caches[0].has_room(5)  # a third of the limit
    sources = {"photos": source(packed(tmp_path), "image")}
    options = {"batch": 5, "seed": 1, "steps": 12}
    plain = list(open_loader(sources, **options))
    assert_equal(plain, list(open_loader(sources, **options, workers=2, cache="ram")))


KILLED = """
    import sys
    from dataio.loading import Loader, LoaderOptions, LoadingPlan, StreamSource
    from dataio.shards import load_manifest

    m = load_manifest(sys.argv[1])
    source = StreamSource(m, m.select("image", "train"), m.classes, True, 24)
    plan = LoadingPlan({"s": source}, batch=8, seed=0, steps=10**9)
    for step, _ in Loader(plan, LoaderOptions(workers=2, cache="ram")):
        if step == 20:
            print("running", flush=True)
"""


def shared_files(pids: set[int]) -> set[str]:
    """Files under /dev/shm that these processes have mapped and that still have a name."""
    found = set()
    for pid in pids:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            path = line.split(maxsplit=5)[5:]
            if path and path[0].startswith("/dev/shm/") and not path[0].endswith("(deleted)"):
                found.add(path[0])
    return found


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_a_killed_run_leaves_nothing_in_shared_memory(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(KILLED))
    process = subprocess.Popen(
        [sys.executable, str(script), packed(tmp_path).root],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    pids = {process.pid, *children(process.pid)}
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in pids]
    assert sum("img2shape-cache" in text for text in maps) == 3  # this process and two workers
    left = shared_files(pids)
    assert not any("img2shape" in name for name in left)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while (left := {name for name in left if Path(name).exists()}) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set()
