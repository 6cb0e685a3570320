"""GPUs, the driver and torch's build, DeepSpeed, compilers."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from dataclasses import dataclass

from cluster.doctor.findings import Finding, error, note, ok, size, warning


@dataclass(frozen=True)
class Gpus:
    """What the driver and torch say; ``driver`` None: there is none, ``cuda`` None: a build of
    torch without CUDA; ``failure`` is torch's reason not to use the GPUs."""

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


def check_deepspeed(*, asked: str, installed: str | None) -> Finding:
    """``asked``: ``strategy.name``."""
    if asked != "deepspeed":
        return ok("deepspeed", "not asked for")
    if installed is None:
        return error(
            "deepspeed",
            "strategy.name=deepspeed, but it is not installed",
            'pip install "img2shape[deepspeed]", or strategy.name=ddp',
        )
    return ok("deepspeed", f"DeepSpeed {installed}; nothing of it is compiled")


def check_compiler(*, asked: str, compiler: str | None) -> Finding:
    """``asked``: ``on`` with ``strategy.compile``, else ``off``; ``compiler``: where one is."""
    if asked == "off":
        return ok("compiler", "not needed: strategy.compile is off")
    if compiler is None and importlib.util.find_spec("triton") is None:
        return error(
            "compiler",
            "strategy.compile is on, but there is no C++ compiler",
            "install g++, or strategy.compile=false",
        )
    return ok("compiler", f"strategy.compile with {compiler or 'triton'}")
