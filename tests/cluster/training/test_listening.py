"""Which addresses the processes of a training listen on: this machine's own, and no other."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import ray  # brings psutil

from cluster.training import ray_cluster
from cluster.training.loopback import on_loopback, torch_config
from dataio.shards import MANIFEST_NAME
from tests.command import CONFIGS, Outcome, outcome, process, small
from tests.dataio.faulty_server import FaultyServer, Request
from tests.spawn import free_port

psutil = pytest.importorskip("psutil", reason="psutil comes with Ray")

Listening = set[tuple[str, str]]  # what a process is called, and an address


def listening(pid: int, known: dict[int, Any]) -> Listening:
    """Addresses that the processes begun by ``pid`` accept connections on; ``known`` are those
    seen before, whose parent may be gone."""
    root = psutil.Process(pid)
    known.update({p.pid: p for p in (root, *root.children(recursive=True))})
    found = set()
    for one in known.values():
        try:
            name = " ".join(one.cmdline()[:3])
            for held in one.net_connections("inet"):
                if held.status == psutil.CONN_LISTEN:
                    found.add((name, held.laddr.ip))
        except psutil.Error:  # ended meanwhile
            continue
    return found


def beyond_loopback(found: Listening) -> Listening:
    def own(address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        mapped = getattr(parsed, "ipv4_mapped", None)
        return (mapped or parsed).is_loopback

    return {(name, address) for name, address in found if not own(address)}


def test_the_look_sees_what_is_open() -> None:
    import socket

    with socket.create_server(("0.0.0.0", 0)):
        assert any(address == "0.0.0.0" for _, address in listening(os.getpid(), {}))
    assert beyond_loopback({("a", "0.0.0.0"), ("b", "::"), ("c", "192.0.2.1")})
    assert not beyond_loopback({("a", "127.0.0.1"), ("b", "::ffff:127.0.0.1"), ("c", "::1")})


@dataclass
class Trained:
    """What was seen of a training with two workers that started a cluster of its own."""

    outcome: Outcome
    found: Listening
    requests: list[Request]  # to the server of its data


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory) -> Iterator[Trained]:
    """It looks at its training streams, queries and gallery on its way."""
    folder = tmp_path_factory.mktemp("listening")
    settings = {"steps": 30, "checkpoint_every": 15}
    options = {f"training__{name}": value for name, value in settings.items()}
    options |= {"validation__every": 15, "validation__criterion": "source-val"}
    with FaultyServer(benchmark) as server, pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("IMG2SHAPE_CACHE", str(folder / "cache"))
        keys = [key for key in small(folder, **options) if not key.startswith("data.root=")]
        keys.append(f"data.root={server.url}")
        command = ["train", CONFIGS / "astn.yaml", *keys, "--workers", 2, "--out", folder / "run"]
        running = process(*command)
        found: Listening = set()
        known: dict[int, Any] = {}
        try:
            while running.poll() is None:
                try:
                    found |= listening(running.pid, known)
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.25)  # a look takes time too; what listens stays for seconds
            ended = outcome(running)
        finally:
            running.kill()
        yield Trained(ended, found, server.requests)


@pytest.mark.ray
@pytest.mark.slow
def test_training_with_workers_listens_on_loopback_alone(trained) -> None:
    """Ray's servers, its agents, the workers' meeting point, gloo and the metrics."""
    assert trained.outcome.code == 0, trained.outcome.err
    names = {name for name, _ in trained.found}
    assert any("RayTrainWorker" in name for name in names), names  # the look came in time
    assert any("raylet" in name or "plasma" in name for name in names), names
    assert not beyond_loopback(trained.found)


@pytest.mark.ray
@pytest.mark.slow
def test_the_launcher_and_each_worker_open_the_data_once(trained) -> None:
    """As ``tests/trainer/inputs/test_open_data.py`` says of one process."""
    asked = [request for request in trained.requests if request.name == MANIFEST_NAME]
    begun = [request for request in asked if request.range is None or request.range[0] == 0]
    assert len(begun) == 1 + 2


MEET = """
import os, sys
import psutil
from trainer.synchronised.collectives import meet_on_loopback, process_group
if sys.argv[1] == "loopback":
    meet_on_loopback()
with process_group(timeout_seconds=30, backend="gloo"):
    held = psutil.Process().net_connections("inet")
    print(*sorted({h.laddr.ip for h in held if h.status == psutil.CONN_LISTEN}))
"""


def meet(how: str) -> set[str]:
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    variables |= {"RANK": "0", "WORLD_SIZE": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-c", MEET, how],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the loopback device has another name")
def test_a_meeting_point_on_loopback() -> None:
    assert meet("loopback") == {"127.0.0.1"}
    assert "::" in meet("anywhere"), "torch listens on loopback by itself now: simplify"


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has no local cluster, such as the one that other tests share."""
    monkeypatch.delenv("IMG2SHAPE_LOCAL_RAY", raising=False)


@pytest.mark.usefixtures("outside")
def test_the_environment_is_as_before() -> None:
    from ray._private import ray_constants

    before, several = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    with on_loopback():
        assert os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
        assert not ray_constants.ENABLE_RAY_CLUSTER
        assert type(torch_config(backend="gloo")).__name__ == "LoopbackTorchConfig"
    assert (dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER) == (before, several)
    assert type(torch_config(backend="gloo")).__name__ == "TorchConfig"


def test_a_users_own_choice_of_device_and_token_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/my/token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with on_loopback():
        assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"
        assert "RAY_AUTH_TOKEN" not in os.environ


@pytest.mark.usefixtures("outside")
def test_a_cluster_of_several_nodes_keeps_rays_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    @contextmanager
    def initialized(**options: Any) -> Iterator[None]:
        asked.append({"local": "IMG2SHAPE_LOCAL_RAY" in os.environ, **options})
        yield

    monkeypatch.setattr(ray_cluster, "_initialized", initialized)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with ray_cluster.ray_session():
        pass
    monkeypatch.delenv("RAY_ADDRESS")
    with ray_cluster.ray_session():
        pass
    elsewhere, here = asked
    assert elsewhere == {"local": False}
    assert here["local"]
    assert here["address"] == "local"
    assert here["include_dashboard"] is False
