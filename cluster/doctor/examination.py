"""All checks in their order: this file gathers the facts, the others judge them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from cluster.doctor import data, installation, machine, network, storage
from cluster.doctor.findings import GIB, Finding, error, note, ok, warning
from cluster.errors import USER_ERRORS
from cluster.training import STORE_BYTES, may_grow, ray_session
from dataio.shards import node_cache
from trainer.building import trunk_cautions
from trainer.config import RunConfig

_RUN_BYTES = GIB // 4  # logs, embeddings and the evaluation of a small run


def examine(config: RunConfig | None, *, workers: int, out: Path) -> list[Finding]:
    """What is wrong, or might be, with installation, machine and ``config``.

    Args:
        config: None examines installation and machine alone.
        workers: training processes; 0 is this process alone.
        out: the run folder.
    """
    ranks = max(1, workers)
    gpus = machine.look_at_gpus()
    found = [
        *installation.check_packages(*installation.look_at_packages()),
        installation.check_torchvision(installation.torchvision_failure()),
        *_machine(config, gpus, ranks=ranks),
    ]
    facts: list[data.RunFacts] = []
    if config is None:
        found.append(ok("run", "no CONFIG was given: installation and machine were examined"))
    else:
        found += _guarded("trunk", lambda: _trunk(config))
        found += _guarded("data", lambda: _data(config, facts, ranks=ranks))
        found += installation.check_engine(config)
    known = facts[0] if facts else None
    found += _folders(config, known, out=out)
    if config is not None and known is not None:
        found += _memory(config, known, gpus, workers=workers, ranks=ranks)
    return [*found, *_network(config), *_guarded("ray cluster", _cluster)]


def _guarded(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What would stop training is a finding and does not stop the examination."""
    try:
        return list(look())
    except (*USER_ERRORS, OSError, RuntimeError) as err:
        text = " ".join(str(err).split()) or type(err).__name__
        remedy = "the message names it; checks that need this one were left out"
        return [error(check, text, remedy)]


def _machine(config: RunConfig | None, gpus: machine.Gpus, *, ranks: int) -> list[Finding]:
    training = config.training if config else None
    processes = ranks * (1 + (training.loader_workers if training else 0))
    return [
        machine.check_gpus(gpus, workers=ranks, local=not may_grow()),
        machine.check_open_files(machine.open_file_limit(), processes=processes),
        machine.check_threads(
            os.environ,
            cores=machine.cores(),
            workers=1 if may_grow() else ranks,
            threads=training.threads if training else None,
        ),
    ]


def _trunk(config: RunConfig) -> Iterable[Finding]:
    for problem, remedy in trunk_cautions(config):
        yield warning("trunk", problem, remedy)


def _data(config: RunConfig, facts: list[data.RunFacts], *, ranks: int) -> Iterable[Finding]:
    known = data.gather(config, workers=ranks)
    facts.append(known)
    explained, loaders = known.explained, config.training.loader_workers
    shards = {name: stream["shards"] for name, stream in explained["streams"].items()}
    yield data.check_reading(known.roots, seconds=known.seconds)
    yield from data.check_spread(shards, ranks=ranks, loader_workers=loaders)
    for text in explained["warnings"]:
        yield warning("streams", text, "`img2shape data explain CONFIG` shows the streams")
    yield from data.check_quarantine(known.left_out)


def _folders(config: RunConfig | None, facts: data.RunFacts | None, *, out: Path) -> list[Finding]:
    need_bytes = _RUN_BYTES
    if config is not None and facts is not None:
        kept = config.training.keep_last + 2 * config.training.keep_best + 1  # one being written
        need_bytes += kept * facts.need.checkpoint
    folder = storage.look_at_folder(out)
    found = [storage.check_folder(folder, what="run folder", need_bytes=need_bytes, option="--out")]
    if folder.failure is None:
        found.append(storage.check_clock(folder.ahead_seconds, whose=f"the file system of {out}"))
    if facts is not None and facts.remote:
        found.append(
            storage.check_folder(
                storage.look_at_folder(node_cache().folder),
                what="shard cache",
                need_bytes=sum(s["pass_bytes"] for s in facts.explained["streams"].values()),
                option="IMG2SHAPE_CACHE",
            )
        )
    return found


def _memory(
    config: RunConfig, facts: data.RunFacts, gpus: machine.Gpus, *, workers: int, ranks: int
) -> Iterable[Finding]:
    if may_grow():
        yield note("memory", "not compared: the workers run on the nodes of RAY_ADDRESS")
        return
    need, on_gpus = facts.need, len(gpus.memory_bytes) >= ranks
    store_bytes = STORE_BYTES if workers else 0
    yield machine.check_shared_memory(
        machine.shared_memory_bytes(), loader_bytes=ranks * need.shared, store_bytes=store_bytes
    )
    host_bytes = need.host(ranks, gpus=on_gpus) + store_bytes
    parts = f"{ranks} x network, batches and processes; an estimate"
    yield machine.check_memory(host_bytes, machine.free_memory_bytes(), what="memory", each=parts)
    if on_gpus:
        parts = "network, optimiser, activations and a device cache; an estimate"
        gpu_bytes = need.gpu(cache=config.training.cache)
        least = min(gpus.memory_bytes)
        yield machine.check_memory(gpu_bytes, least, what="gpu memory", each=parts)


def _network(config: RunConfig | None) -> list[Finding]:
    address = network.address_of(os.environ.get("RAY_ADDRESS", ""))
    token = network.look_at_token(os.environ, home=Path.home())
    found = [network.check_token(token, host=address.host if address else None)]
    if config is not None and config.monitoring.enabled:
        host, port = config.monitoring.host, config.monitoring.port
        taken = network.taken_ports(host, port) if port else []
        found.append(network.check_host(host, in_pod=os.environ.get("KUBERNETES_SERVICE_HOST")))
        found.append(network.check_ports(taken, host=host, first=port))
    return found


def _cluster() -> Iterable[Finding]:
    """Join the cluster of RAY_ADDRESS for a moment."""
    text = os.environ.get("RAY_ADDRESS", "")
    address = network.address_of(text) if text else None
    if address is None:
        return
    failure = network.reaches(address)
    yield network.check_cluster(text, failure=failure)
    if failure is None and not text.startswith("http"):  # http is where jobs are submitted
        with ray_session():
            clocks = network.node_clocks()
        yield from network.check_node_clocks(clocks)
