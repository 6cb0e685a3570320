"""A Ray cluster of separate ``ray start`` processes, with token authentication and a job server."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.command import environment
from tests.spawn import free_port

__all__ = ["RayNodes"]

BIN = Path(sys.executable).parent
STORE_BYTES = 80_000_000
WAIT_SECONDS = 120.0


class RayNodes:
    """A head without CPUs and ``nodes`` nodes of one CPU each, as pods of a cluster would start.

    ``environment`` is what a client needs beside its own variables, and ``address`` where jobs
    are submitted. The nodes have ``variables`` too, and so have the jobs.
    """

    def __init__(self, nodes: int, *, variables: Mapping[str, str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rn", dir="/tmp"))  # unix sockets: short paths
        self._gcs, port = free_port(), free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.environment = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_urlsafe(32),
            "RAY_ADDRESS": self.address,
        }
        self._variables = {
            **{k: v for k, v in environment().items() if k != "RAY_ADDRESS"},
            **{k: v for k, v in self.environment.items() if k != "RAY_ADDRESS"},
            "RAY_health_check_period_ms": "1000",  # a node that is gone is missed soon
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            **variables,
        }
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            self._start("--head", f"--port={self._gcs}", f"--dashboard-port={port}",
                        "--dashboard-host=127.0.0.1", f"--temp-dir={self._folder}",
                        "--num-cpus=0")  # fmt: skip
            self._wait(lambda: self._nodes() == 1)
            for number in range(nodes):  # one after the other: they choose names and ports
                self._start(f"--address=127.0.0.1:{self._gcs}", "--num-cpus=1")
                self._wait(lambda number=number: self._nodes() == number + 2)
        except BaseException:
            self.close()
            raise

    def pid(self, node: int) -> int:
        """The process that holds node ``node`` (1, 2, …; 0 is the head)."""
        return self._processes[node].pid

    def kill(self, node: int) -> None:
        """Node ``node`` is lost with all that runs on it."""
        os.killpg(self.pid(node), signal.SIGKILL)
        self._processes[node].wait()

    def close(self) -> None:
        """End all nodes."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *options: str) -> None:
        command = [str(BIN / "ray"), "start", *options, "--block", "--disable-usage-stats",
                   "--min-worker-port=0", "--max-worker-port=0",
                   f"--dashboard-agent-listen-port={free_port()}",
                   f"--object-store-memory={STORE_BYTES}"]  # fmt: skip
        log = self._folder / f"node-{len(self._processes)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env=self._variables, stdout=out, stderr=out, start_new_session=True
            )
        self._processes.append(process)

    def _wait(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while not condition():
            for number, process in enumerate(self._processes):
                if process.poll() is not None or time.monotonic() > until:
                    said = (self._folder / f"node-{number}.log").read_text()
                    raise AssertionError(f"node {number} does not run: {said}")
            time.sleep(0.2)

    def _nodes(self) -> int:
        """Living nodes, as the head's server sees them."""
        request = urllib.request.Request(
            f"{self.address}/nodes?view=summary",
            headers={"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"},
        )
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=5) as answer:
            found = json.load(answer)["data"]["summary"]
            return sum(node["raylet"].get("state") == "ALIVE" for node in found)
        return 0
