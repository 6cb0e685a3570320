"""What a run folder says, as metrics: values, labels, counters over several starts."""

from __future__ import annotations

import json
import math
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from cluster.monitoring.exported_metrics import METRICS, RUN_STATES, metric
from cluster.monitoring.families import Families
from cluster.monitoring.ray_metrics import RayMirror
from cluster.monitoring.run_metrics import (
    RESTART_REASONS,
    RunMetrics,
    health_series,
    restart_reason,
)
from trainer.config import RunConfig, parse_config
from trainer.runs.attempt import Attempt, take_attempt
from trainer.runs.run_folder import RunFolder
from trainer.watching.telemetry import StepHistogram

BROKEN = ["", "{", "[]", "\0", '{"format": 2, "attempt": 9}', '{"format": 1}']
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def config_of(steps: int = 6) -> RunConfig:
    tree = {"method": "astn", "data": {"dataset": "mine"}, "training": {"steps": steps}}
    return parse_config(tree)


def scraped(registry: CollectorRegistry) -> Series:
    """All samples, as Prometheus reads them; every name and label must be the catalogue's."""
    found: Series = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        entry = metric(name)
        assert (family.type, family.documentation) == (entry.kind, entry.help)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(entry.label_names), sample
            found[sample.name, frozenset(sample.labels.items())] = sample.value
    return found


class Watched:
    """A run folder whose files the test writes, and its metrics."""

    def __init__(self, path: Path, *, run: str = "one") -> None:
        self.folder, self.run = RunFolder(path), run
        self.folder.claim(config_of(), fingerprint="f")
        self.watch()

    def watch(self) -> None:
        """As a new call for the folder does."""
        self.registry = CollectorRegistry()
        self.metrics = RunMetrics(self.folder, registry=self.registry, run=self.run)

    def begin(self, *, step: int = 0, reason: str | None = None, workers: int = 2) -> Attempt:
        attempt = take_attempt(self.folder.facts)
        attempt.begin(step=step, world_size=workers, reason=reason)
        return attempt

    def tell(self, attempt: Attempt, **told: Any) -> None:
        whole = {"format": 1, "attempt": attempt.number, "time": 1.0, **told}
        self.folder.telemetry.write_text(json.dumps(whole))

    def look(self) -> Callable[..., float | None]:
        """Look, scrape, and give a function for a series' value, None where there is none."""
        self.metrics.look()
        found = scraped(self.registry)

        def value(name: str, **labels: str) -> float | None:
            return found.get((f"img2shape_{name}", frozenset({"run": self.run, **labels}.items())))

        return value


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "one")


def test_before_it_trains_it_says_what_it_is_and_only_true_zeros(watched):
    value = watched.look()
    assert value("run_state", state="starting") == 1
    assert sum(value("run_state", state=s) or 0 for s in RUN_STATES) == 1
    assert value("steps_planned") == 6
    facts = watched.folder.read()
    labels = {"method": "astn", "strategy": "ddp", "identity": facts["identity"]}
    config = config_of()
    places = {"dataset": config.data.dataset, "backbone": config.network.backbone}
    assert value("run_info", **labels, **places) == 1
    assert (value("steps_total"), value("nonfinite_total")) == (0, 0)
    assert {value("restarts_total", reason=r) for r in RESTART_REASONS} == {0}
    for unknown in ("step", "loss", "bad_samples", "rank_skew_ratio", "checkpoint_step"):
        assert value(unknown) is None
    assert value("step_seconds_count") is None


def test_a_start_means_training(watched):
    watched.metrics.state("waiting")
    assert watched.look()("run_state", state="waiting") == 1
    watched.begin(workers=3)
    value = watched.look()
    assert (value("run_state", state="training"), value("world_size")) == (1, 3)
    watched.metrics.state("finished")
    assert watched.look()("run_state", state="finished") == 1


def test_every_number_of_the_telemetry_has_its_series(watched):
    histogram = StepHistogram()
    for seconds in (0.004, 0.02, 100.0):
        histogram.add(seconds)
    watched.tell(
        watched.begin(),
        step=3,
        last_step_time=12.5,
        world_size=2,
        phases={"start": 1.0, "data": 2.0, "total": 3.0},
        samples={"photos": 30, "shapes": 27},
        steps=3,
        step_seconds=histogram.told(),
        rank_skew=0.25,
        read_bytes=1000,
        cache_bytes=2000,
        bad_samples=4,
        checkpoint={"step": 2, "time": 11.0, "bytes": 99, "seconds": None},
        record={
            "loss": 1.5,
            "learning_rate": 0.1,
            "terms": {"classification": 1.0, "domain": 0.5, "broken": None},
            "health": {"gradient_norm": 3.0, "discriminator_accuracy": 0.75, "gate_conv3": 0.5},
        },
    )
    value = watched.look()
    assert (value("step"), value("steps_total"), value("world_size")) == (3, 3, 2)
    assert value("last_step_timestamp_seconds") == 12.5
    assert value("phase_seconds_total", phase="data") == 2
    assert value("phase_seconds_total", phase="total") is None
    assert value("samples_total", stream="shapes") == 27
    assert value("step_seconds_count") == 3
    assert value("step_seconds_sum") == pytest.approx(100.024)
    buckets = [value("step_seconds_bucket", le=le) for le in ("0.005", "0.025", "60.0", "+Inf")]
    assert buckets == [1, 2, 2, 3]
    assert (value("rank_skew_ratio"), value("bad_samples")) == (0.25, 4)
    assert (value("shard_read_bytes_total"), value("cache_bytes")) == (1000, 2000)
    assert (value("checkpoint_step"), value("checkpoint_bytes")) == (2, 99)
    assert value("checkpoint_timestamp_seconds") == 11
    assert value("checkpoint_write_seconds") is None
    assert (value("loss"), value("learning_rate"), value("gradient_norm")) == (1.5, 0.1, 3)
    assert value("loss_term", term="domain") == 0.5
    assert value("loss_term", term="broken") is None
    assert value("discriminator_accuracy_ratio", discriminator="domain") == 0.75
    assert value("gate_value", gate="conv3") == 0.5


def test_counters_survive_a_killed_and_a_continued_attempt(watched):
    first = watched.begin()
    watched.tell(first, steps=5, samples={"a": 50}, phases={"data": 1.0})
    watched.look()
    watched.tell(first, steps=8, samples={"a": 80}, phases={"data": 2.0})
    assert watched.look()("steps_total") == 8
    second = watched.begin(step=4, reason="worker death")
    value = watched.look()  # it has told nothing yet
    assert (value("steps_total"), value("restarts_total", reason="worker_death")) == (8, 1)
    watched.tell(second, steps=9, samples={"a": 90}, phases={"data": 0.5})
    value = watched.look()
    assert (value("steps_total"), value("samples_total", stream="a")) == (17, 170)
    assert value("phase_seconds_total", phase="data") == 2.5
    assert watched.look()("steps_total") == 17


def test_a_histogram_goes_on_over_attempts(watched):
    for expected in (1, 2):
        histogram = StepHistogram()
        histogram.add(0.3)
        watched.tell(watched.begin(), step_seconds=histogram.told())
        value = watched.look()
        assert value("step_seconds_count") == value("step_seconds_bucket", le="0.5") == expected
        assert value("step_seconds_bucket", le="0.25") == 0
        assert value("step_seconds_sum") == pytest.approx(0.3 * expected)


def test_what_an_earlier_call_has_left_is_not_shown(watched):
    watched.tell(watched.begin(), step=3, steps=3)
    watched.folder.validation.write_text('{"step": 3, "scores": {"mAP": 0.5}}\n')
    watched.watch()
    value = watched.look()
    assert (value("step"), value("steps_total"), value("evaluation_step")) == (None, 0, None)
    attempt = watched.begin(step=3)
    value = watched.look()
    assert (value("step"), value("restarts_total", reason="continued")) == (None, 1)
    assert value("evaluation_score", metric="mAP") == 0.5
    watched.tell(attempt, step=4, steps=1)
    value = watched.look()
    assert (value("step"), value("steps_total")) == (4, 1)


def test_the_last_validation_is_shown(watched):
    watched.begin()
    lines = [{"step": s, "scores": {"mAP": s / 10, "NN": None}} for s in (2, 4)]
    watched.folder.validation.write_text("".join(json.dumps(line) + "\n" for line in lines))
    value = watched.look()
    assert (value("evaluation_step"), value("evaluation_score", metric="mAP")) == (4, 0.4)
    assert value("evaluation_score", metric="NN") is None
    watched.folder.validation.write_text('{"step": 6, "scor')
    assert watched.look()("evaluation_step") == 4


@pytest.mark.parametrize("content", BROKEN)
def test_a_file_that_cannot_be_read_changes_nothing(watched, content):
    watched.tell(watched.begin(), step=3, steps=3, bad_samples=0)
    assert watched.look()("bad_samples") == 0
    for path in (watched.folder.telemetry, watched.folder.facts, watched.folder.config):
        path.write_text(content)
    value = watched.look()
    assert (value("step"), value("steps_total"), value("bad_samples")) == (3, 3, 0)


def test_a_telemetry_of_another_make_is_said_and_fails_nothing(watched, caplog):
    watched.tell(watched.begin(), step=3, phases=7)
    assert watched.look()("step") == 3
    assert "not as it should be" in caplog.text


def test_a_folder_that_is_not_there_yet(tmp_path):
    folder, registry = RunFolder(tmp_path / "later"), CollectorRegistry()
    metrics = RunMetrics(folder, registry=registry, run="later")
    metrics.look()
    assert ("img2shape_steps_planned", frozenset({("run", "later")})) not in scraped(registry)
    folder.claim(config_of(), fingerprint="f")
    metrics.look()
    assert scraped(registry)["img2shape_steps_planned", frozenset({("run", "later")})] == 6


def test_a_run_that_diverges_is_counted(watched):
    watched.metrics.nonfinite()
    assert watched.look()("nonfinite_total") == 1


@pytest.mark.parametrize("name", ['a"b', "back\\slash", "<script>", "two\nlines", "süß", " "])
def test_any_run_name_can_be_a_label(tmp_path, name):
    watched = Watched(tmp_path / "one", run=name)
    assert watched.look()("run_state", state="starting") == 1


def test_restart_reasons_are_a_closed_set():
    from cluster.training.ray_workers import LARGER
    from cluster.training.worker_restarts import DEATH, HANG, PREEMPTION

    known = {
        DEATH: "worker_death",
        HANG: "hang",
        PREEMPTION: "preemption",
        "preemption notice": "preemption",
        "SIGTERM to a worker": "sigterm",
        LARGER: "larger_group",
        "continued": "continued",
        "left": "other",
    }
    assert {words: restart_reason(words) for words in known} == known
    assert set(known.values()) == set(RESTART_REASONS)


def test_health_signals_that_methods_share_have_metrics_of_their_own():
    found = health_series(
        {
            "source_center_drift": 1.0,
            "local_discriminator_accuracy": 2.0,
            "domain_mmd": 3.0,
            "pseudo_label_coverage": 4.0,
            "pseudo_label_agreement": 5.0,
            "gradient_norm_generator": 6.0,
            "shift_norm": 7.0,
        }
    )
    shown = {name: series for name, series in found.items() if series}
    assert shown == {
        "img2shape_center_drift": [({"domain": "source"}, 1.0)],
        "img2shape_discriminator_accuracy_ratio": [({"discriminator": "local"}, 2.0)],
        "img2shape_domain_mmd": [({}, 3.0)],
        "img2shape_pseudo_label_coverage_ratio": [({}, 4.0)],
        "img2shape_pseudo_label_agreement_ratio": [({}, 5.0)],
        "img2shape_health": [
            ({"signal": "gradient_norm_generator"}, 6.0),
            ({"signal": "shift_norm"}, 7.0),
        ],
    }


def test_a_health_signal_that_stops_loses_its_series(watched):
    attempt = watched.begin()
    watched.tell(attempt, record={"health": {"domain_mmd": 1.0, "shift": 2.0}})
    assert watched.look()("health", signal="shift") == 2
    watched.tell(attempt, record={"health": {"domain_mmd": None}})
    value = watched.look()
    assert (value("health", signal="shift"), value("domain_mmd")) == (None, None)


def test_families_refuse_what_the_catalogue_does_not_have():
    families = Families("sweep", "s", registry=CollectorRegistry())
    with pytest.raises(KeyError):
        families.set("img2shape_step", 1)  # a run's
    with pytest.raises(KeyError, match="state"):
        families.set("img2shape_sweep_cells", 1)
    families.set("img2shape_sweep_cells", 2, state="running")
    assert [v for _, labels, v in families.values() if labels == ("s", "running")] == [2]


def test_a_scrape_sees_all_of_a_look_or_nothing_of_it(watched):
    """Two series that are always set together, read while another thread sets them."""
    families, stop = watched.metrics.families, threading.Event()

    def write() -> None:
        for n in iter(lambda: stop.is_set(), True):
            del n
            with families.together():
                families.add("img2shape_steps_total", 1)
                families.add("img2shape_nonfinite_total", 1)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(50):
            found = scraped(watched.registry)
            run = frozenset({("run", "one")})
            steps = found["img2shape_steps_total", run]
            assert steps == found["img2shape_nonfinite_total", run]
    finally:
        stop.set()
        thread.join()


def test_a_not_a_number_is_a_number_to_prometheus():
    registry = CollectorRegistry()
    Families("run", "r", registry=registry).set("img2shape_loss", math.nan)
    assert math.isnan(scraped(registry)["img2shape_loss", frozenset({("run", "r")})])


def test_a_ray_session_shows_gauges_and_counters_on_its_own_endpoint(ray_cluster, watched):
    import ray

    mirror = RayMirror(watched.metrics.families)
    watched.tell(watched.begin(), step=3, steps=3)
    watched.look()
    mirror.look()
    watched.metrics.families.add("img2shape_steps_total", 4)
    mirror.look()
    mirror.look()  # nothing has grown
    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[str, float] = {}
    for _ in range(60):
        with urllib.request.urlopen(url, timeout=30) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            found = {
                s.name: s.value
                for family in families
                for s in family.samples
                if s.labels.get("run") == "one"
            }
        if found.get("ray_img2shape_steps_total") == 7:
            break
        threading.Event().wait(0.5)
    assert (found["ray_img2shape_step"], found["ray_img2shape_steps_total"]) == (3, 7)
    assert {name.removeprefix("ray_") for name in found} <= {entry.name for entry in METRICS}


def test_without_a_ray_session_nothing_is_mirrored(watched, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    mirror = RayMirror(watched.metrics.families)
    mirror.look()
    assert mirror._metrics == {}


def test_a_ray_that_breaks_is_left_alone(watched, monkeypatch, caplog):
    import ray

    def broken(self: RayMirror, entry: Any) -> Any:
        raise RuntimeError("no agent")

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(RayMirror, "_metric", broken)
    mirror = RayMirror(watched.metrics.families)
    mirror.look()
    mirror.look()
    assert [r.getMessage() for r in caplog.records].count(
        "Ray's metrics endpoint: RuntimeError: no agent"
    ) == 1
