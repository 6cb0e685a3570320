"""What the checks of a run need to know of its data and its network, gathered once."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.doctor.findings import Finding, ok
from cluster.doctor.need import Need, estimate
from dataio.loading import StreamSource
from dataio.shards import (
    ShardReader,
    is_remote,
    load_manifest,
    read_quarantine,
    shown,
    verify_content,
)
from trainer.config import RunConfig


@dataclass(frozen=True)
class RunFacts:
    """``left_out``: by data set, samples in quarantine and all samples; ``seconds``: to read
    manifests and one sample of every stream."""

    roots: tuple[str, ...]
    remote: bool
    seconds: float
    explained: dict[str, Any]
    left_out: dict[str, tuple[int, int]]
    need: Need


def gather(config: RunConfig, *, workers: int) -> RunFacts:
    """Read what training would read first.

    Raises:
        ConfigError, DataError, OSError: what training would stop at.
    """
    from cluster.training import model_complexity
    from trainer.explain import explain_run
    from trainer.inputs import OpenData

    begun = time.monotonic()
    data = OpenData(config)
    sources = data.sources
    for source in sources.values():
        _read_first(source)
    seconds = time.monotonic() - begun
    explained = explain_run(data, world_size=workers)
    views = {name: _views(source) for name, source in sources.items()}
    roots = _roots(sources.values())
    return RunFacts(
        roots=tuple(map(shown, roots)),
        remote=any(map(is_remote, roots)),
        seconds=seconds,
        explained=explained,
        left_out={shown(root): _left_out(root) for root in roots},
        need=estimate(config, model_complexity(config), explained, views=views, workers=workers),
    )


def _read_first(source: StreamSource) -> None:
    """One sample, from its shard to its hash."""
    reader = ShardReader(source.manifest.root, source.manifest.shards)
    try:
        verify_content(source.manifest, int(source.rows[0]), reader=reader)
    finally:
        reader.close()


def _views(source: StreamSource) -> int:
    stored = max(1, int(source.manifest.views[source.rows].max()))
    return min(stored, source.views or stored)


def _roots(sources: Iterable[StreamSource]) -> list[str]:
    """Of the data sets, each once, in order; those of a union are read as its parts."""
    found: dict[str, None] = {}
    for source in sources:
        for root in source.manifest.root.split(" + "):
            found.setdefault(root)
    return list(found)


def _left_out(root: str) -> tuple[int, int]:
    samples = len(load_manifest(root, quarantined=False))
    return len(read_quarantine(root).samples), samples


def no_config() -> Finding:
    return ok("run", "no CONFIG was given: machine and installation alone were looked at")
