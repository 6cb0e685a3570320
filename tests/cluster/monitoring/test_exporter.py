"""The metrics endpoint: ports, the last scrape, and a training that is scraped on its way."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from cluster.monitoring import exporter as exporter_module
from cluster.monitoring.exported_metrics import METRICS
from cluster.monitoring.exporter import Exporter
from cluster.monitoring.run_monitoring import monitored
from cluster.training.group_size import GroupPlan, GroupSize
from tests.command import CONFIGS, call, small
from tests.spawn import free_port
from trainer.config import ConfigError, RunConfig, load_config
from trainer.runs.run_folder import RunFolder
from trainer.watching.finite import NonFiniteError

ANY = "127.0.0.1"


def scrape(port: int | None, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://{ANY}:{port}{path}", timeout=30) as answer:
        return answer.read().decode()


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Values by name and the labels' values, ``run`` left out."""
    return {
        (s.name, tuple(v for k, v in sorted(s.labels.items()) if k != "run")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def refused(port: int | None) -> bool:
    try:
        scrape(port)
    except urllib.error.URLError as err:
        return isinstance(err.reason, ConnectionRefusedError)
    return False


@contextmanager
def exporting(**options) -> Iterator[Exporter]:
    made = Exporter(CollectorRegistry(), **{"host": ANY, "port": 0, **options})
    try:
        yield made
    finally:
        made.close(wait_seconds=0)


@contextmanager
def busy(port: int, count: int = 1) -> Iterator[None]:
    held = [socket.create_server((ANY, port + n)) for n in range(count)]
    try:
        yield
    finally:
        for server in held:
            server.close()


def test_it_says_where_it_listens_and_looks_before_it_answers(capfd):
    looks: list[int] = []
    with exporting(before_scrape=lambda: looks.append(1)) as made:
        assert scrape(made.port) == ""
        scrape(made.port)
        assert len(looks) == 2
        with pytest.raises(urllib.error.HTTPError, match="404"):
            scrape(made.port, "/else")
        assert len(looks) == 2
        port = made.port
    assert capfd.readouterr().err == f"metrics: http://127.0.0.1:{port}/metrics\n"
    assert refused(port)


def test_a_busy_port_gives_way_to_the_next(capfd):
    port = free_port()
    with busy(port), exporting(port=port) as made:
        assert made.port is not None
        assert port < made.port < port + exporter_module.PORTS
        scrape(made.port)
        said = f"metrics: http://127.0.0.1:{made.port}/metrics ({port} is taken)\n"
        assert capfd.readouterr().err == said


def test_without_a_free_port_nothing_is_exported_and_nothing_fails(capfd, monkeypatch):
    monkeypatch.setattr(exporter_module, "PORTS", 2)
    port = next(p for p in range(20000, 60000, 7) if _free(p) and _free(p + 1))
    with busy(port, 2), exporting(port=port) as made:
        assert made.port is None
    assert capfd.readouterr().err == (
        f"metrics: not exported, nothing can listen at 127.0.0.1 port {port} ff. "
        "(Address already in use)\n"
    )


def _free(port: int) -> bool:
    try:
        with busy(port):
            return True
    except OSError:
        return False


def test_an_address_of_another_machine_ends_no_training(capfd):
    with exporting(host="192.0.2.77") as made:  # for documentation: no machine has it
        assert made.port is None
    assert "metrics: not exported" in capfd.readouterr().err


def test_what_is_no_address_is_refused():
    with pytest.raises(ConfigError, match=r"monitoring.host 'no host': not an address"):
        Exporter(CollectorRegistry(), host="no host", port=0)


def test_an_ipv6_address_works():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")
    with exporting(host="::1") as made:
        url = f"http://[::1]:{made.port}/metrics"
        assert urllib.request.urlopen(url, timeout=30).status == 200


def test_a_look_that_fails_does_not_fail_the_scrape(caplog):
    def broken() -> None:
        raise ValueError("no")

    with exporting(before_scrape=broken) as made:
        assert scrape(made.port) == ""
    assert "metrics: ValueError: no" in caplog.text


def test_who_asks_nothing_keeps_nobody_from_the_end():
    with exporting() as made:
        assert made.port is not None
        with socket.create_connection((ANY, made.port)):
            scrape(made.port)
            made.close()


@pytest.mark.parametrize("scrapes", [0, 1])
def test_it_closes_at_once_where_nobody_scrapes_at_intervals(scrapes, capfd):
    with exporting() as made:
        for _ in range(scrapes):
            scrape(made.port)
        made.close()
    assert "last scrape" not in capfd.readouterr().err  # which it says before it waits


def test_it_does_not_wait_for_a_scraper_that_has_gone(capfd):
    with exporting() as made:
        made._scraped_seconds = [time.monotonic() - 50, time.monotonic() - 40]
        made.close()
    assert "last scrape" not in capfd.readouterr().err


def test_the_end_is_kept_for_one_more_scrape(capfd):
    with exporting() as made:
        made._scraped_seconds = [time.monotonic() - 500, time.monotonic()]
        port, ended = made.port, threading.Event()

        def close() -> None:
            made.close()
            ended.set()

        threading.Thread(target=close, daemon=True).start()
        wait_until(lambda: made._final)
        assert not ended.is_set()
        scrape(port)
        assert ended.wait(30)
    assert refused(port)
    assert "metrics: up to 60 s for a last scrape (Ctrl-C: none)" in capfd.readouterr().err


def test_ctrl_c_ends_the_wait(caplog):
    main = threading.main_thread().ident
    assert main is not None
    with exporting() as made, caplog.at_level(logging.DEBUG):
        made._scraped_seconds = [time.monotonic() - 500, time.monotonic()]
        threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
        made.close()
        assert made.port is None
    assert "left without a last scrape" in caplog.text


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited in vain")


def config_on(port: int, *more: str) -> RunConfig:
    return load_config(CONFIGS / "astn.yaml", [f"monitoring.port={port}", *more])


@pytest.mark.parametrize(
    ("failure", "state"),
    [
        (None, "finished"),
        (KeyboardInterrupt(), "interrupted"),
        (RuntimeError("a node burns"), "failed"),
        (NonFiniteError("loss is nan"), "failed"),
    ],
)
def test_the_state_that_a_run_ends_in(tmp_path, monkeypatch, failure, state):
    """What a last scrape would see, taken when the exporter is closed."""
    seen: list[str] = []

    class Watched(Exporter):
        def close(self, *, wait_seconds: float = 0) -> None:
            seen.append(scrape(self.port))
            super().close(wait_seconds=wait_seconds)

    monkeypatch.setattr("cluster.monitoring.run_monitoring.Exporter", Watched)
    expected = nullcontext() if failure is None else pytest.raises(type(failure))
    with expected, monitored(config_on(0), tmp_path / "run") as monitor:
        monitor.waiting()
        monitor.look()
        if failure is not None:
            raise failure
    found = samples(seen[0])
    assert found["img2shape_run_state", (state,)] == 1
    assert found["img2shape_run_state", ("waiting",)] == 0
    assert found["img2shape_nonfinite_total", ()] == isinstance(failure, NonFiniteError)


def test_disabled_or_on_another_rank_nothing_listens(tmp_path, monkeypatch, capfd):
    with monitored(config_on(0, "monitoring.enabled=false"), tmp_path) as monitor:
        monitor.waiting()
        monitor.look()
    monkeypatch.setenv("RANK", "1")
    with monitored(config_on(0), tmp_path):
        pass
    assert capfd.readouterr().err == ""


def test_an_unusable_host_is_refused_before_anything_is_written(capfd, benchmark, tmp_path):
    settings = small(benchmark, monitoring__host="not.an.address.invalid")
    done = call(capfd, "train", CONFIGS / "astn.yaml", *settings, "--out", tmp_path / "run")
    assert done.complaint.startswith("monitoring.host 'not.an.address.invalid': not an address")
    assert not (tmp_path / "run").exists()


def test_a_training_is_scraped_on_its_way_and_its_series_end_with_it(capfd, benchmark, tmp_path):
    """Everything at once: the command, its endpoint, the catalogue, the end."""
    port, out = free_port(), tmp_path / 'a"run<b>'
    texts: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            try:
                texts.append(scrape(port))
            except OSError:
                continue

    settings = small(benchmark, training__steps=12, monitoring__port=port)
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        done = call(capfd, "train", CONFIGS / "astn.yaml", *settings, "--out", out)
    finally:
        stop.set()
        watcher.join()
    assert done.code == 0, done.err
    assert f"metrics: http://127.0.0.1:{port}/metrics\n" in done.err
    assert refused(port)
    last = samples(texts[-1])
    assert last["img2shape_run_state", ("finished",)] == 1
    assert last["img2shape_step", ()] == last["img2shape_steps_total", ()] == 12
    assert last["img2shape_samples_total", ("target_shapes",)] == 120
    assert last["img2shape_checkpoint_step", ()] == 12
    known = {entry.name for entry in METRICS}
    families = list(text_string_to_metric_families(texts[-1]))
    assert {f"{f.name}_total" if f.type == "counter" else f.name for f in families} <= known
    assert {s.labels["run"] for f in families for s in f.samples} == {'a"run<b>'}
    steps = [samples(text)["img2shape_steps_total", ()] for text in texts]
    assert steps == sorted(steps)
    again = call(capfd, "train", CONFIGS / "astn.yaml", *settings, "--out", out)
    assert "metrics:" not in again.err  # finished already: there is nothing to watch


def test_a_driver_that_finds_no_room_says_that_it_waits(tmp_path, monkeypatch):
    from cluster.training import ray_workers

    waits: list[int] = []
    driver = ray_workers._Driver(
        config_on(0),
        RunFolder(tmp_path),
        GroupSize(2, 2),
        on_record=lambda record: None,
        on_wait=lambda: waits.append(1),
    )
    monkeypatch.setattr(ray_workers, "SETTLE_SECONDS", 0.0)
    for missing in (0, 1):
        plan = GroupPlan(2, 1.0, False, missing=missing)
        monkeypatch.setattr(driver, "_plan_now", lambda plan=plan: plan)
        assert driver._plan(threading.Event()) == plan
        assert len(waits) == missing
