"""How loader workers end: with the iteration, on Ctrl-C, and when their parent is killed."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataio.loading.sources import StreamSource
from dataio.loading.workers import LoaderWorkerError
from dataio.shards.manifest import Manifest
from tests.dataio.packed import open_loader, packed


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("processes"))


@pytest.fixture(scope="module")
def sources(manifest) -> dict[str, StreamSource]:
    rows = manifest.select("image", "train")
    return {"source": StreamSource(manifest, rows, manifest.classes, True, 24)}


def status(pid: int) -> list[str]:
    """State and parent of a process, or nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:2]
    except OSError:
        return []


def is_running(pid: int) -> bool:
    return status(pid)[:1] not in ([], ["Z"], ["X"])


def children(root: int) -> set[int]:
    """Live descendants of a process."""
    live = [int(p.name) for p in Path("/proc").glob("[0-9]*") if is_running(int(p.name))]
    parents = {pid: int(found[1]) for pid in live if (found := status(pid))}
    found, edge = set(), {root}
    while edge:
        edge = {child for child, parent in parents.items() if parent in edge}
        found |= edge
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_close_ends_the_workers(sources):
    # Once before counting: the server process that workers come from stays.
    list(open_loader(sources, batch=8, seed=5, steps=1, workers=1))
    before = children(os.getpid())
    loader = open_loader(sources, batch=8, seed=5, steps=100, workers=2)
    running = iter(loader)
    next(running)
    assert len(children(os.getpid()) - before) == 2
    loader.close()
    assert children(os.getpid()) - before == set()
    assert list(running) == []
    for i, _ in enumerate(loader):
        if i == 2:
            break
    loader.close()
    assert children(os.getpid()) - before == set()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_killed_worker_is_named_instead_of_waited_for(sources):
    list(open_loader(sources, batch=8, seed=5, steps=1, workers=1))
    before = children(os.getpid())
    with open_loader(sources, batch=8, seed=5, steps=10**6, workers=2) as loader:
        running = iter(loader)
        next(running)
        first, second = sorted(children(os.getpid()) - before)
        os.kill(second, signal.SIGKILL)
        with pytest.raises(LoaderWorkerError, match=rf"loader worker {second} was killed.* memory"):
            list(running)
    assert not is_running(first)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs /dev/shm")
def test_running_workers_have_no_name_in_shared_memory(sources):
    """A kill of all processes at once, with whoever else would tidy up, leaves nothing."""
    names = set(os.listdir("/dev/shm"))
    with open_loader(sources, batch=8, seed=5, steps=100, workers=2) as loader:
        running = iter(loader)
        next(running)
        next(running)
        used = {
            name
            for pid in children(os.getpid()) | {os.getpid()}
            for name in re.findall(r"/dev/shm/(\S+)$", Path(f"/proc/{pid}/maps").read_text(), re.M)
        }
        assert not (set(os.listdir("/dev/shm")) - names) & used
        assert len(list(running)) == 98


INTERRUPTED = """
    import os, sys, torch, torch.distributed as dist
    from dataio.loading import Loader, LoaderOptions, LoadingPlan, StreamSource
    from dataio.shards import load_manifest

    # No main guard, a process group and busy OpenMP threads: none of it may trouble the workers.
    dist.init_process_group("gloo", rank=0, world_size=1, init_method=f"file://{sys.argv[2]}")
    torch.set_num_threads(2)
    torch.rand(600, 600) @ torch.rand(600, 600)
    m = load_manifest(sys.argv[1])
    source = StreamSource(m, m.select("image", "train"), m.classes, True, 24)
    plan = LoadingPlan({"s": source}, batch=8, seed=0, steps=10**9)
    try:
        for step, batches in Loader(plan, LoaderOptions(workers=2)):
            dist.all_reduce(torch.ones(1))
            if step == 5:
                print("running", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@pytest.fixture
def running(manifest, tmp_path) -> Iterator[subprocess.Popen]:
    """A training process of its own, in its sixth step."""
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(INTERRUPTED))
    process = subprocess.Popen(
        [sys.executable, str(script), manifest.root, str(tmp_path / "store")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    yield process
    if process.poll() is None:
        process.kill()


def test_interrupt_ends_everything_quietly(running):
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all processes at once
    start = time.monotonic()
    out, err = running.communicate(timeout=60)
    assert time.monotonic() - start < 30
    assert out == "interrupted\n"
    assert "Traceback" not in err
    assert running.returncode == 0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_workers_do_not_outlive_a_killed_process(running):
    left = children(running.pid)
    assert len(left) >= 3
    running.kill()
    running.wait()
    deadline = time.monotonic() + 30
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = {pid for pid in left if is_running(pid)}
    assert left == set()
