"""The data of a run: read here as training would read them first, then judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.complexity import model_complexity
from cluster.doctor.findings import Finding, note, ok, warning
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
from trainer.explain import explain_run
from trainer.inputs import OpenData

_SLOW_SECONDS = 5.0  # to read one sample of each stream; of a URL that fetches a whole shard
_MANY = 0.01  # a share of samples in quarantine that is no accident


@dataclass(frozen=True)
class RunFacts:
    """What the checks of a run are about.

    Attributes:
        roots: places of its data sets.
        remote: whether one of them is a URL.
        seconds: to read the manifests and one sample of every stream.
        explained: of :func:`trainer.explain.explain_run`.
        left_out: samples in quarantine and all samples, by data set.
        need: memory and disk.
    """

    roots: tuple[str, ...]
    remote: bool
    seconds: float
    explained: dict[str, Any]
    left_out: dict[str, tuple[int, int]]
    need: Need


def gather(config: RunConfig, *, workers: int) -> RunFacts:
    """Read what training on ``workers`` workers would read first.

    Raises:
        ConfigError, DataError, OSError: what training would stop at.
    """
    begun = time.monotonic()
    data = OpenData(config)
    sources = data.sources
    for source in sources.values():
        _read_first(source)
    seconds = time.monotonic() - begun
    explained = explain_run(data, world_size=workers)
    views = {name: _views(source) for name, source in sources.items()}
    # A union's root names its parts; each data set counts once.
    roots = dict.fromkeys(r for s in sources.values() for r in s.manifest.root.split(" + "))
    return RunFacts(
        roots=tuple(map(shown, roots)),
        remote=any(map(is_remote, roots)),
        seconds=seconds,
        explained=explained,
        left_out={shown(root): _left_out(root) for root in roots},
        need=estimate(config, model_complexity(config), explained, views=views, workers=workers),
    )


def _read_first(source: StreamSource) -> None:
    """Read one sample and compare its hash."""
    reader = ShardReader(source.manifest.root, source.manifest.shards)
    try:
        verify_content(source.manifest, int(source.rows[0]), reader=reader)
    finally:
        reader.close()


def _views(source: StreamSource) -> int:
    stored = max(1, int(source.manifest.views[source.rows].max()))
    return min(stored, source.views or stored)


def _left_out(root: str) -> tuple[int, int]:
    samples = len(load_manifest(root, quarantined=False))
    return len(read_quarantine(root).samples), samples


def check_reading(roots: Sequence[str], *, seconds: float) -> Finding:
    """How long it took to read one sample of each stream."""
    listed = ", ".join(roots)
    if seconds > _SLOW_SECONDS:
        message = f"{listed}: the first samples took {seconds:.1f} s"
        remedy = "copy the data nearer, or set training.loader_workers to 2 or more"
        return warning("data", message, remedy)
    return ok("data", f"{listed}: manifest and first samples read in {seconds:.1f} s")


def check_spread(shards: Mapping[str, int], *, ranks: int, loader_workers: int) -> list[Finding]:
    """The number of shards of each stream against that of the processes that read them."""
    readers = ranks * max(1, loader_workers)
    few = {name: count for name, count in shards.items() if count < readers}
    if not few:
        return [ok("shards", f"enough for {readers} readers in every stream")]
    listed = ", ".join(f"{name} {count}" for name, count in few.items())
    message = f"{readers} processes read, but there are fewer shards: {listed}"
    remedy = "pack with a smaller --shard-size-mb if reading is slow; the batches are the same"
    return [(warning if ranks > min(few.values()) else note)("shards", message, remedy)]


def check_quarantine(left_out: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """Samples in quarantine and all samples, by data set."""
    found = []
    for root, (count, total) in left_out.items():
        message = f"{root}: {count} of {total} samples are in quarantine"
        if count > _MANY * total:
            remedy = f"`img2shape data verify {root}` lists them; copy or pack the set again"
            found.append(warning("quarantine", message, remedy))
        elif count:
            found.append(note("quarantine", message, "training leaves them out"))
    return found or [ok("quarantine", "no sample is left out")]
