"""A real Prometheus scrapes a real training: every panel and every alert has data.

``$__rate_interval`` is ten seconds here. Ranges of minutes stay as they are, since they take what
is there; how long an alert must hold, and what it says of faults, is tests/cluster/alert_cases.py.
Only ``offset``, which looks at a time before this test, becomes a second.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server

from cluster.monitoring.shipped import with_job
from cluster.sweeps.exported import SweepMetrics
from cluster.sweeps.live import Progress
from tests.cluster.prometheus_server import PROMETHEUS, Prometheus, running_prometheus
from tests.cluster.shipped_monitoring import ALERTS, BOARDS, condition, expressions, marks, panels
from tests.cluster.sweeps.test_sweep_live import told
from tests.command import CONFIGS, outcome, process, small

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus"
    ),
]
PATIENCE_SECONDS = 120
RUN = "astn-observed"


def instant(expression: str) -> str:
    """The expression as it can be asked of a Prometheus that began seconds ago."""
    for variable, value in (("$run", ".*"), ("$sweep", ".*"), ("$__rate_interval", "10s")):
        expression = expression.replace(variable, value)
    return re.sub(r"offset \w+", "offset 1s", expression)


PANELS = {
    f"{name}: {panel['title']} {legend}": instant(expression)
    for name, board in BOARDS.items()
    for panel in panels(board)
    for legend, expression in expressions(panel)
}
MARKS = {  # without their threshold
    f"{name}: {mark['name']}": instant(mark["expr"].removesuffix(" > 0"))
    for name, board in BOARDS.items()
    for mark in marks(board)
}
MEASURED = {name: instant(condition(rule)[0]) for name, rule in ALERTS.items()}
ALL = {**PANELS, **MARKS, **MEASURED}


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory) -> Iterator[Prometheus]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture(scope="module")
def sweep() -> Iterator[str]:
    """The address of a sweep's metrics: one cell finished, one failed, one at work, one waiting."""
    progress, registry = Progress("sweep s: 4 cells", 4), CollectorRegistry()
    told(progress)
    SweepMetrics("s", progress, registry=registry)
    server, thread = start_http_server(0, addr="127.0.0.1", registry=registry)
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def training(benchmark, prometheus, sweep, tmp_path_factory) -> Iterator[subprocess.Popen[str]]:
    """A training that lasts as long as the tests, and is scraped with the sweep."""
    options = small(
        benchmark,
        training__steps=1_000_000,
        training__checkpoint_every=20,
        validation__every=20,
        monitoring__port=0,
    )
    folder = tmp_path_factory.mktemp("runs") / RUN
    running = process("train", CONFIGS / "astn.yaml", *options, "--out", folder)
    try:
        prometheus.scrape(address_of(running), sweep)
        yield running
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
        outcome(running)


def address_of(running: subprocess.Popen[str]) -> str:
    """Where a run says that it listens."""
    assert running.stderr
    lines = []
    for line in running.stderr:
        lines.append(line)
        if found := re.search(r"metrics: http://([\d.:]+)/metrics", line):
            return found[1]
    raise AssertionError("".join(lines))


def eventually(answer: Callable[[], Any], running: subprocess.Popen[str]) -> Any:
    """The answer once there is one, while the training runs."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and running.poll() is None:
        if found := answer():
            return found
        time.sleep(0.2)
    raise AssertionError(outcome(running) if running.poll() is not None else "no data")


@pytest.mark.parametrize("what", ALL)
def test_it_has_data(what, prometheus, training):
    eventually(lambda: prometheus.values(ALL[what]), training)


def test_another_job_has_no_data(prometheus, training):
    """Every query stays valid with a job filled in, and asks for the series of that job alone."""
    for what, expression in ALL.items():
        assert prometheus.values(with_job(expression, "another")) == [], what
    state = "img2shape_run_state"
    assert prometheus.values(with_job(state, "img2shape")) == prometheus.values(state) != []


def test_phases_sum_to_the_wall_clock(prometheus, training):
    (found,) = [p for p in panels(BOARDS["run"]) if p["title"] == "Where the time goes"]
    whole = f"sum({instant(expressions(found)[0][1])})"

    def shares() -> list[float]:  # over ten seconds, of a file that is written once a second
        return [share for _, share in prometheus.values(whole) if 0.5 < share < 1.5]

    assert len(eventually(shares, training)) == 1


def test_rules_are_evaluated_and_say_what_they_should(prometheus, training):
    def evaluated() -> list[dict[str, Any]]:
        rules = [r for g in prometheus.api("rules")["groups"] for r in g["rules"]]
        return rules if all(rule["health"] == "ok" for rule in rules) else []

    rules = eventually(evaluated, training)
    assert [rule["name"] for rule in rules] == list(ALERTS)
    firing = eventually(lambda: prometheus.api("alerts")["alerts"], training)
    (failed,) = [a for a in firing if a["labels"]["alertname"] == "Img2ShapeSweepCellsFailed"]
    assert failed["labels"]["sweep"] == "s"
    assert failed["annotations"]["description"] == "1 cells of sweep s have failed."


def test_a_killed_run_is_missed_and_shows_nothing_any_more(prometheus, training):
    """The last test: it ends the training."""
    gone = ALERTS["Img2ShapeExporterGone"]["expr"]
    assert prometheus.values(gone) == []
    os.killpg(training.pid, signal.SIGKILL)
    training.wait()
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := prometheus.values(gone)) and time.monotonic() < end:
        time.sleep(0.2)
    ((labels, _),) = found
    assert labels["run"] == RUN
    assert prometheus.values('img2shape_run_state{run=~".+"}') == []
