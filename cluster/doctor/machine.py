"""This machine: GPUs, shared memory, open files, threads, memory."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.doctor.findings import Finding, error, note, ok, size, warning

SHM = "/dev/shm"
_FILES_PER_PROCESS = 512  # shards, pipes and sockets of one worker with its loader
# Files of the two versions of cgroups with a container's memory limit, and what it uses of it.
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


@dataclass(frozen=True)
class Gpus:
    """What the driver and torch say.

    Attributes:
        driver: version of NVIDIA's driver; None where there is none.
        cuda: version that torch was built for; None for a build without CUDA.
        memory_bytes: of each GPU that torch can use.
        failure: why torch cannot use the GPUs.
    """

    driver: str | None
    cuda: str | None
    memory_bytes: tuple[int, ...] = ()
    failure: str = ""


def look_at_gpus() -> Gpus:
    """The GPUs of this machine, as far as they are visible to this process."""
    import torch

    driver, cuda = _driver(), torch.version.cuda
    if cuda is None or driver is None:
        return Gpus(driver, cuda)
    try:
        count = torch.cuda.device_count()
        memory = tuple(torch.cuda.get_device_properties(i).total_memory for i in range(count))
        return Gpus(driver, cuda, memory, "" if count else "no device is visible")
    except (RuntimeError, AssertionError) as err:
        return Gpus(driver, cuda, failure=str(err).splitlines()[0])


def _driver() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return lines[0] if done.returncode == 0 and lines else None


def check_gpus(gpus: Gpus, *, workers: int, local: bool = True) -> Finding:
    """GPUs against torch's build and ``workers``; ``local``: the workers run on this machine."""
    if gpus.driver is not None and gpus.cuda is None:
        return warning(
            "gpus",
            f"there are GPUs (driver {gpus.driver}), but torch is a build for CPUs alone",
            "install torch and torchvision from an index of CUDA builds",
        )
    if gpus.driver is not None and not gpus.memory_bytes:
        return error(
            "gpus",
            f"torch for CUDA {gpus.cuda} cannot use driver {gpus.driver}: {gpus.failure}",
            "update the driver, install a build for an older CUDA, or look at CUDA_VISIBLE_DEVICES",
        )
    if not gpus.memory_bytes:
        return note("gpus", "none here; training runs on the CPU")
    count, smallest = len(gpus.memory_bytes), min(gpus.memory_bytes)
    found = f"{count} GPUs of {size(smallest)} or more, driver {gpus.driver}, CUDA {gpus.cuda}"
    if local and workers > count:
        return warning(
            "gpus",
            f"{workers} workers are more than {found}: they would train on CPUs",
            f"--workers {count}, or a range that begins with it",
        )
    if local and workers < count:
        return note("gpus", f"{found}; {workers} of them used", f"--workers {count} uses all")
    return ok("gpus", found)


def shared_memory_bytes() -> int | None:
    """Free bytes of /dev/shm; None where a system has none."""
    try:
        return shutil.disk_usage(SHM).free
    except OSError:
        return None


def open_file_limit() -> int:
    """Open files that a process may have now."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def free_memory_bytes() -> int:
    """Memory that this process may still take, within its container's limit."""
    free = _available_bytes()
    for limit_file, used_file in zip(_CGROUP, _CGROUP_USED, strict=True):
        limit, used = _number(limit_file), _number(used_file)
        if limit is not None and used is not None:
            free = min(free, max(0, limit - used))
    return free


def _available_bytes() -> int:
    """Free memory, with the part of the file cache that the system would give up."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: str) -> int | None:
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):  # no such file, or the word "max" for no limit
        return None


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_shared_memory(free_bytes: int | None, *, loader_bytes: int, store_bytes: int) -> Finding:
    """/dev/shm against the batches of loader processes, which die when it is full, and Ray's
    object store, which is then on disk and slow."""
    if free_bytes is None:
        return note("shared memory", f"this system has no {SHM}")
    remedy = "give the container more (docker --shm-size, an emptyDir of medium Memory)"
    if free_bytes < loader_bytes:
        message = (
            f"/dev/shm has {size(free_bytes)} free, loader processes need {size(loader_bytes)}"
        )
        return error("shared memory", message, f"{remedy}, or fewer training.loader_workers")
    if free_bytes < loader_bytes + store_bytes:
        message = (
            f"/dev/shm has {size(free_bytes)} free, too little for Ray's object store "
            f"({size(store_bytes)}), which will be on disk"
        )
        return warning("shared memory", message, remedy)
    return ok("shared memory", f"{size(free_bytes)} free in /dev/shm")


def check_open_files(limit: int, *, processes: int) -> Finding:
    """The limit of each process against what the ``processes`` of a run open together."""
    wanted = _FILES_PER_PROCESS * max(2, processes)
    if 0 <= limit < wanted:
        return warning("open files", f"limit {limit}, up to {wanted} are opened", "ulimit -n 65536")
    return ok("open files", "no limit" if limit < 0 else f"limit {limit}")


def check_threads(
    environment: Mapping[str, str], *, cores: int, workers: int, threads: int | None
) -> Finding:
    """Threads of all workers against the cores; ``threads``: ``training.threads``."""
    text = environment.get("OMP_NUM_THREADS", "").split(",")[0]
    if text and not text.isdigit():
        return error("threads", f"OMP_NUM_THREADS={text} is no number", "unset OMP_NUM_THREADS")
    each = threads or (int(text) if text else max(1, cores // workers))
    source = "training.threads" if threads else "OMP_NUM_THREADS" if text else "cores / workers"
    if each * workers > cores:
        return warning(
            "threads",
            f"{workers} x {each} threads ({source}) on {cores} cores hinder each other",
            f"training.threads={max(1, cores // workers)}",
        )
    return ok("threads", f"{workers} x {each} threads ({source}) on {cores} cores")


def check_memory(need_bytes: int, free_bytes: int, *, what: str, each: str) -> Finding:
    """An estimate against what is free; ``what``: memory or GPU memory, ``each``: its parts."""
    message = f"about {size(need_bytes)} needed ({each}), {size(free_bytes)} free"
    remedy = "strategy.micro_batch, a smaller training.batch, fewer workers, or training.cache=none"
    if need_bytes > free_bytes:
        return error(what, message, remedy)
    if need_bytes > 0.8 * free_bytes:
        return warning(what, f"{message}: close, and this is an estimate", remedy)
    return ok(what, message)
