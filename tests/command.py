"""Run the command line, in this process for speed or in one of its own for signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "procedural"


OWN_CLUSTER = (  # variables of the local Ray cluster that tests share, if this process has it
    "IMG2SHAPE_LOCAL_RAY",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
    "RAY_AUTH_TOKEN",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
)


def environment(**more: str) -> dict[str, str]:
    """The environment that a user's shell would have, with ``more``."""
    return {**{k: v for k, v in os.environ.items() if k not in OWN_CLUSTER}, **more}


@dataclass(frozen=True)
class Outcome:
    """Exit code and everything the command wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; anything beside it is an error."""
        assert self.code == 0, self.err
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one line about bad input, which ends stderr; fails on a traceback or a second one."""
        lines = self.err.splitlines()
        found = [line for line in lines if line.startswith("img2shape: ")]
        assert self.code == 2, (self.code, self.err)
        assert "Traceback" not in self.err
        assert found == lines[-1:], self.err
        return found[0].removeprefix("img2shape: ")


def call(capture: pytest.CaptureFixture[str], *args: object) -> Outcome:
    """``img2shape args`` in this process; ``capture`` is the fixture ``capfd``."""
    from cluster.cli.app import main

    capture.readouterr()
    before, sys.argv = sys.argv, ["img2shape", *map(str, args)]
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.argv = before
    assert isinstance(code, int)
    written = capture.readouterr()
    return Outcome(code, str(written.out), str(written.err))


def process(*args: object, module: str = "cluster", **options: Any) -> subprocess.Popen[str]:
    """``python -m cluster args``, started in a process group of its own like a terminal's job."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment(OMP_NUM_THREADS="1"),
        **options,
    )


def outcome(running: subprocess.Popen[str], *, timeout_seconds: float = 120) -> Outcome:
    """Wait for a process of :func:`process`."""
    out, err = running.communicate(timeout=timeout_seconds)
    return Outcome(running.returncode, out, err)


def wait_until(
    condition: Callable[[], bool], running: subprocess.Popen[str], *, seconds: float = 180
) -> None:
    """Wait for ``condition`` while ``running`` runs; fails if it ends before."""
    for _ in range(int(seconds / 0.02)):
        if condition():
            return
        if running.poll() is not None:
            raise AssertionError(f"ended too early: {outcome(running)}")
        time.sleep(0.02)
    running.kill()
    raise AssertionError(f"waited {seconds} s in vain: {outcome(running)}")


def small(data: Path, **overrides: object) -> list[str]:
    """Overrides of a ready configuration: a tiny network and six steps on ``data``.

    Dots of further overrides are written as two underscores: ``training__steps=3``.
    """
    settings = {
        "data.root": data,
        "data.train_views": 2,
        "network.tiny_width": 8,
        "network.embedding": 16,
        "training.steps": 6,
        "training.batch": 10,
        "training.log_every": 1,
        "training.checkpoint_every": 3,
        "training.threads": 1,
        "training.cache": "none",
        "training.precision": "float32",
        **{name.replace("__", "."): value for name, value in overrides.items()},
    }
    return [f"{name}={value}" for name, value in settings.items()]
