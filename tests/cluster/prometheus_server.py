"""A real Prometheus on loopback that scrapes what a test gives it, and its HTTP API."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.shipped_monitoring import RULES_TEXT
from tests.spawn import free_port

__all__ = ["PROMETHEUS", "Prometheus", "running_prometheus"]

PROMETHEUS = shutil.which("prometheus")
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Prometheus:
    """A server that runs.

    Args:
        folder: of its configuration; it looks for new targets there.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self._folder = url, folder

    def scrape(self, *addresses: str) -> None:
        """Scrape these ``host:port`` from now on, and no others."""
        path = self._folder / "targets.json"
        path.with_suffix(".new").write_text(json.dumps([{"targets": list(addresses)}]))
        path.with_suffix(".new").replace(path)

    def api(self, path: str, **query: str) -> Any:
        """``data`` of an answer; fails on an error, such as an expression that is none."""
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with DIRECT.open(url, timeout=10) as answer:
                told = json.load(answer)
        except urllib.error.HTTPError as err:
            raise AssertionError(f"{query}: {err.read().decode()}") from err
        assert told["status"] == "success", told
        return told["data"]

    def values(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an expression, now; without those that are NaN."""
        found = self.api("query", query=expression)["result"]
        series = [(each["metric"], float(each["value"][1])) for each in found]
        return [(labels, value) for labels, value in series if not math.isnan(value)]


@contextmanager
def running_prometheus(folder: Path) -> Iterator[Prometheus]:
    """Start it with our rules; it scrapes and evaluates twice a second, and ends with the block."""
    _configure(folder)
    process, url = _started(folder)
    try:
        yield Prometheus(url, folder)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _configure(folder: Path) -> None:
    (folder / "alerts.yaml").write_text(RULES_TEXT)
    (folder / "targets.json").write_text("[]")
    often = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
    targets = [{"files": ["targets.json"], "refresh_interval": "1s"}]
    content = {
        "global": often,
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "img2shape", "file_sd_configs": targets}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(content))


def _started(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """The process once it answers; another port where somebody else was quicker to take it."""
    for _ in range(3):
        address = f"127.0.0.1:{free_port()}"
        command = [str(PROMETHEUS), f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={address}"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        if _ready(process, f"http://{address}"):
            return process, f"http://{address}"
    raise AssertionError((folder / "log").read_text())


def _ready(process: subprocess.Popen[bytes], url: str) -> bool:
    for _ in range(600):
        if process.poll() is not None:
            return False
        try:
            DIRECT.open(f"{url}/-/ready", timeout=2).close()
            return True
        except OSError:
            time.sleep(0.1)
    process.kill()
    process.wait()
    return False
