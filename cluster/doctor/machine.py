"""This machine: shared memory, open files, threads, memory."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Mapping

from cluster.doctor.findings import Finding, error, note, ok, size, warning

SHM = "/dev/shm"
_FILES_PER_PROCESS = 512  # shards, pipes and sockets of one worker with its loader
_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


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
    """With what the system would give up of its file cache, where it says how much that is."""
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
    except (OSError, ValueError):  # "max": no limit
        return None


def check_shared_memory(free_bytes: int | None, *, loader_bytes: int, store_bytes: int) -> Finding:
    """/dev/shm against the batches of loader processes, which die without it, and Ray's object
    store, which without it is in /tmp and slow."""
    if free_bytes is None:
        return note("shared memory", "this system has no /dev/shm")
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
    """The limit of this shell against what the ``processes`` of a run open."""
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


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
