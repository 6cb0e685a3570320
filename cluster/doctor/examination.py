"""All checks in their order: facts are gathered here, and judged by the files beside."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from cluster.doctor import accelerators, data, folders, machine, network, nodes, versions
from cluster.doctor.findings import GIB, Finding, error, note
from cluster.doctor.run_facts import RunFacts, gather, no_config
from cluster.errors import USER_ERRORS
from cluster.training import STORE_BYTES, may_grow, ray_session
from dataio.shards import node_cache
from trainer.config import RunConfig

_RUN_BYTES = GIB // 4  # logs, embeddings and the evaluation of a small run


def examine(config: RunConfig | None, *, workers: int, out: Path) -> list[Finding]:
    """What is wrong, or might be, with installation, machine and ``config``.

    Args:
        workers: training processes; 0 is this process alone.
        out: the run folder.
    """
    ranks = max(1, workers)
    gpus = accelerators.look_at_gpus()
    found = [*_installation(), *_machine(config, gpus, workers=workers, ranks=ranks)]
    facts: list[RunFacts] = []
    if config is None:
        found.append(no_config())
    else:
        found += _guarded("data", lambda: _data(config, facts, ranks=ranks))
        found += _engine(config)
    known = facts[0] if facts else None
    found += _folders(config, known, out=out)
    if config is not None and known is not None:
        found += _memory(config, known, gpus, workers=workers, ranks=ranks)
    return [*found, *_network(config), *_guarded("ray cluster", _cluster)]


def _guarded(check: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What training would refuse is a finding, not the end of the examination."""
    try:
        return list(look())
    except (*USER_ERRORS, OSError, RuntimeError) as err:
        text = " ".join(str(err).split()) or type(err).__name__
        return [error(check, text, "see the message; the checks that follow from it were left out")]


def _installation() -> list[Finding]:
    wanted = versions.wanted()
    here, extras = versions.installed(wanted.packages), versions.installed(wanted.optional)
    torch, torchvision = here.get("torch"), here.get("torchvision")
    pair = []
    if torch and torchvision:
        failure = _torchvision_failure()
        pair = [versions.check_torch_pair(torch, torchvision, failure=failure)]
    return [
        versions.check_python(platform.python_version(), wanted.python),
        *versions.check_packages(here, wanted.packages),
        *versions.check_packages(extras, wanted.optional, extra="optional"),
        *pair,
    ]


def _torchvision_failure() -> str | None:
    try:
        import torchvision.ops  # noqa: F401  # registers its compiled operators
    except (ImportError, OSError, RuntimeError, AttributeError) as err:
        return str(err).splitlines()[0]
    return None


def _machine(
    config: RunConfig | None, gpus: accelerators.Gpus, *, workers: int, ranks: int
) -> list[Finding]:
    training = config.training if config else None
    processes = ranks * (1 + (training.loader_workers if training else 0))
    return [
        accelerators.check_gpus(gpus, workers=ranks, local=not may_grow()),
        machine.check_open_files(machine.open_file_limit(), processes=processes),
        machine.check_threads(
            os.environ,
            cores=machine.cores(),
            workers=1 if may_grow() else ranks,
            threads=training.threads if training else None,
        ),
    ]


def _engine(config: RunConfig) -> list[Finding]:
    installed = versions.installed({"deepspeed": ""})["deepspeed"]
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    asked = "on" if config.strategy.compile else "off"
    return [
        accelerators.check_deepspeed(asked=config.strategy.name, installed=installed),
        accelerators.check_compiler(asked=asked, compiler=compiler),
    ]


def _data(config: RunConfig, facts: list[RunFacts], *, ranks: int) -> Iterable[Finding]:
    facts.append(gather(config, workers=ranks))
    known, loaders = facts[0], config.training.loader_workers
    shards = data.stream_shards(known.explained)
    yield data.check_reading(", ".join(known.roots), seconds=known.seconds)
    yield from data.check_spread(shards, ranks=ranks, loader_workers=loaders)
    yield from data.check_streams(known.explained["warnings"])
    yield from data.check_quarantine(known.left_out)


def _folders(config: RunConfig | None, facts: RunFacts | None, *, out: Path) -> list[Finding]:
    need_bytes = _RUN_BYTES
    if config is not None and facts is not None:
        kept = config.training.keep_last + 2 * config.training.keep_best + 1  # one being written
        need_bytes += kept * facts.need.checkpoint
    folder = folders.look_at_folder(out)
    found = [folders.check_folder(folder, what="run folder", need_bytes=need_bytes, option="--out")]
    if folder.failure is None:
        found.append(folders.check_clock(folder.ahead_seconds, whose=f"the file system of {out}"))
    if facts is not None and facts.remote:
        cache, read = (
            folders.look_at_folder(node_cache().folder),
            facts.explained["streams"].values(),
        )
        need_bytes = sum(stream["pass_bytes"] for stream in read)
        option = "IMG2SHAPE_CACHE"
        found.append(
            folders.check_folder(cache, what="shard cache", need_bytes=need_bytes, option=option)
        )
    return found


def _memory(
    config: RunConfig, facts: RunFacts, gpus: accelerators.Gpus, *, workers: int, ranks: int
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
    free = machine.free_memory_bytes()
    yield machine.check_memory(host_bytes, free, what="memory", each=parts)
    if on_gpus:
        each = "network, optimiser, activations and a device cache; an estimate"
        gpu_bytes = need.gpu(cache=config.training.cache)
        least = min(gpus.memory_bytes)
        yield machine.check_memory(gpu_bytes, least, what="gpu memory", each=each)


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
    """The cluster of RAY_ADDRESS, joined for a moment."""
    text = os.environ.get("RAY_ADDRESS", "")
    address = network.address_of(text) if text else None
    if address is None:
        return
    failure = network.reaches(address)
    yield network.check_cluster(text, failure=failure)
    if failure is None and not text.startswith("http"):  # http: where jobs are submitted
        with ray_session():
            clocks = nodes.node_clocks()
        yield from nodes.check_node_clocks(clocks)
