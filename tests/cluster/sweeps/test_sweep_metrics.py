"""What a sweep exports, held against its progress, and its endpoint."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry

from cluster.sweeps.exported import SweepMetrics, exported
from cluster.sweeps.live import Progress
from tests.cluster.sweeps.test_sweep_live import cell, row, told
from trainer.sections import MonitoringConfig

ANMRR = {"ANMRR": 0.5, "FT": 0.5, "mAP": 0.75}


def values(registry: CollectorRegistry, name: str, label: str) -> dict[str, float]:
    return {
        sample.labels[label]: sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_cells_times_and_best_scores_are_those_of_the_progress():
    registry, progress = CollectorRegistry(), Progress("sweep s", 4, plain=False)
    progress.skipped = 2
    progress.found = [row("finished", metrics=ANMRR), row("stopped", metrics=None)]
    metrics = SweepMetrics("s", progress, registry=registry)
    told(progress)
    metrics.look()
    metrics.look()  # counts nothing twice
    cells = values(registry, "img2shape_sweep_cells", "state")
    expected = {"pending": 1, "running": 1, "finished": 2, "stopped": 1, "failed": 1, "skipped": 2}
    assert cells == expected
    seconds = values(registry, "img2shape_sweep_cell_seconds_total", "sweep")
    assert seconds == {"s": 4.0}  # of the two that ended here
    best = values(registry, "img2shape_sweep_best_score", "metric")
    assert best == {"ANMRR": 0.5, "FT": 0.5, "mAP": 0.75}
    progress.over(cell(3), row("finished", metrics={"ANMRR": 0.25, "FT": 0.75, "mAP": None}))
    metrics.look()
    best = values(registry, "img2shape_sweep_best_score", "metric")
    assert best == {"ANMRR": 0.25, "FT": 0.75, "mAP": 0.75}  # ANMRR: lower is better


def test_the_endpoint_is_there_while_the_sweep_is(capfd):
    progress = Progress("sweep s", 4, plain=False)
    with exported("s", progress) as export:
        export.begin(MonitoringConfig(port=0))
        export.begin(MonitoringConfig(port=0))
        (said,) = [line for line in capfd.readouterr().err.splitlines() if "metrics: " in line]
        url = said.removeprefix("metrics: ")
        assert url.startswith("http://127.0.0.1:")
        page = urllib.request.urlopen(url, timeout=10).read().decode()
        assert 'img2shape_sweep_cells{state="pending",sweep="s"} 4.0' in page
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(url, timeout=10)


def test_a_sweep_whose_description_turns_it_off_listens_nowhere(capfd):
    with exported("s", Progress("sweep s", 4, plain=False)) as export:
        export.begin(MonitoringConfig(enabled=False))
    assert "metrics" not in capfd.readouterr().err
