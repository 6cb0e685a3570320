"""The network: ports for metrics; the Ray cluster of RAY_ADDRESS with its token and clocks."""

from __future__ import annotations

import ipaddress
import re
import socket
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.doctor.findings import Finding, error, note, ok, warning
from cluster.doctor.storage import check_clock
from cluster.monitoring import PORTS

_RAY_PORT = 6379
_ADDRESS = re.compile(r"(?:(?P<scheme>[a-z]+)://)?\[?(?P<host>[^\]/]+?)\]?(?::(?P<port>\d+))?/?")
_NODE_SECONDS = 60.0  # a busy node has this long to answer
_SCHEME_PORTS = {"ray": 10001, "http": 8265, "https": 443}


@dataclass(frozen=True)
class Address:
    """Where a cluster is."""

    host: str
    port: int


def address_of(text: str) -> Address | None:
    """The place that RAY_ADDRESS names; None for the words ``auto`` and ``local``."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None or text in ("auto", "local"):
        return None
    port = found["port"] or _SCHEME_PORTS.get(found["scheme"] or "", _RAY_PORT)
    return Address(found["host"], int(port))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches ``host``; names are not resolved."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reaches(address: Address, *, seconds: float = 3.0) -> str | None:
    """Why nothing answers at ``address``; None if something does."""
    try:
        socket.create_connection((address.host, address.port), timeout=seconds).close()
    except OSError as err:
        return err.strerror or str(err)
    return None


def taken_ports(host: str, first: int, *, count: int = PORTS) -> list[int]:
    """The ports from ``first`` on that are taken, up to the first free one of ``count``."""
    taken = []
    for port in range(first, min(first + count, 65536)):
        try:
            # Like the exporter, this takes a port that a server left a moment ago.
            socket.create_server((host, port)).close()
        except OSError:
            taken.append(port)
        else:
            break
    return taken


def check_ports(taken: list[int], *, host: str, first: int) -> Finding:
    """The metrics' port, ``first``, which is ``monitoring.port``, and the ``taken`` ones."""
    if first == 0:
        return ok("ports", "monitoring takes any free port")
    if len(taken) >= PORTS:
        remedy = "monitoring.port=0 takes any; monitoring.enabled=false none"
        return error("ports", f"{host}: no port of {first}-{first + PORTS - 1} is free", remedy)
    if taken:
        message = f"{host}:{first} is taken; metrics will be on {first + len(taken)}"
        return note("ports", message, "point Prometheus there, or choose monitoring.port")
    return ok("ports", f"{host}:{first} is free for metrics")


def check_host(host: str, *, in_pod: str | None = None) -> Finding:
    """``monitoring.host``; ``in_pod`` is KUBERNETES_SERVICE_HOST, where metrics are to be read from
    other pods."""
    if is_loopback(host):
        return ok("exposure", "metrics listen on loopback")
    if in_pod:
        return note("exposure", f"metrics listen on {host}", "the NetworkPolicy limits who asks")
    remedy = "monitoring.host=127.0.0.1, or a firewall: metrics have no password"
    return warning("exposure", f"metrics listen on {host}, for everyone who reaches it", remedy)


def check_cluster(text: str, *, failure: str | None) -> Finding:
    """Whether the cluster of RAY_ADDRESS, ``text``, answered; ``failure`` says why not."""
    if failure is not None:
        remedy = "start the cluster, correct RAY_ADDRESS, or unset it to train on this machine"
        return error("ray cluster", f"RAY_ADDRESS={text} does not answer ({failure})", remedy)
    return ok("ray cluster", f"RAY_ADDRESS={text} answers")


@dataclass(frozen=True)
class Token:
    """Where this process has its token for a Ray cluster; never the token itself.

    Attributes:
        auth: RAY_AUTH_MODE.
        place: the variable or file.
        mode: permissions of the file.
        failure: why the file cannot be used.
    """

    auth: str | None
    place: str | None = None
    mode: int | None = None
    failure: str | None = None


def look_at_token(environment: Mapping[str, str], *, home: Path) -> Token:
    """Look where Ray looks: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    auth = environment.get("RAY_AUTH_MODE")
    if environment.get("RAY_AUTH_TOKEN"):
        return Token(auth, "RAY_AUTH_TOKEN")
    named = environment.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else home / ".ray" / "auth_token"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        return Token(auth, str(path), mode, None if path.read_text().strip() else "is empty")
    except FileNotFoundError:
        return Token(auth, str(path) if named else None, failure="is not there" if named else None)
    except (OSError, ValueError) as err:
        return Token(auth, str(path), failure=f"cannot be read ({err})")


def check_token(token: Token, *, host: str | None) -> Finding:
    """Whether the cluster at ``host`` is safe and can be joined; None is a local cluster."""
    if token.failure is not None and token.auth != "disabled":
        remedy = "`ray get-auth-token --generate` makes one; the cluster must have the same"
        return error("token", f"{token.place} {token.failure}", remedy)
    if token.mode is not None and token.mode & 0o077:
        message = f"{token.place} can be read by other users (mode {token.mode:o})"
        return warning("token", message, f"chmod 600 {token.place}")
    if host is None or is_loopback(host):
        return ok("token", "not needed: Ray is reached from this machine alone")
    if token.auth == "disabled":
        message = f"the cluster at {host} is joined without a token: who reaches it runs code"
        return warning("token", message, "RAY_AUTH_MODE=token on the cluster and here")
    if token.place is None:
        remedy = "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, both as the cluster has them"
        return warning("token", f"none for the cluster at {host}", remedy)
    return ok("token", f"{token.place}")


def node_clocks() -> dict[str, float]:
    """Seconds that each living node's clock is ahead of this machine's, as precise as half a task
    takes. Needs a Ray session; leaves out nodes that do not answer in time."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(_asked)
    found = {}
    for node in ray.nodes():
        if node["Alive"]:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ask.options(scheduling_strategy=there)
            try:
                # The first call starts a process, which takes longer.
                ray.get(task.remote(), timeout=_NODE_SECONDS)
                before = time.time()
                theirs = ray.get(task.remote(), timeout=_NODE_SECONDS)
            except GetTimeoutError:
                continue
            found[node["NodeManagerAddress"]] = theirs - (before + time.time()) / 2
    return found


def _asked() -> float:
    return time.time()


def check_node_clocks(ahead_seconds: dict[str, float]) -> list[Finding]:
    """One finding for each node."""
    return [check_clock(ahead, whose=f"node {node}") for node, ahead in ahead_seconds.items()]
