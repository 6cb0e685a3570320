"""Progress without a terminal: lines that say how long the rest will take."""

from __future__ import annotations

import pytest

from cluster.terminal import progress


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time that progress sees, in seconds; a test moves it."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_tells_rate_and_time_left_without_the_start(clock, capfd):
    with progress.task("scoring", 5000) as bar:
        clock[0] += 60  # actors start
        bar.at(1000)
        clock[0] += 20
        bar.at(2000)
        clock[0] += 5
        bar.at(2100)  # too soon for another line
        clock[0] += 25
        bar.at(3500, note="loss 1")
    assert capfd.readouterr().err.splitlines() == [
        "scoring ...",
        "scoring: 1000/5000",
        "scoring: 2000/5000, 0:01:00 left at 50/s",
        "scoring: 3500/5000, 0:00:30 left at 50/s loss 1",
        "scoring: done in 110.0 s",
    ]


def test_without_a_total_no_time_is_left(clock, capfd):
    with progress.task("reading") as bar:
        for done in (3, 6):
            clock[0] += 20
            bar.at(done)
    assert capfd.readouterr().err.splitlines()[1:3] == ["reading: 3", "reading: 6"]
