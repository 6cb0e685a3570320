"""The smoke benchmark in many small shards, some of which a run opens late, to be damaged."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np

from dataio.datasets.procedural import benchmark_name, records
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.sources import StreamSource
from dataio.packing.records_to_shards import pack
from dataio.shards.manifest import MANIFEST_NAME
from dataio.shards.opening import load_manifest
from dataio.shards.reading import content_member
from tests.command import CONFIGS, small
from trainer.config import load_config
from trainer.inputs.open_data import OpenData

SHARD_BYTES = 100_000


def pack_small_shards(raw: Path, out: Path) -> None:
    """Pack the raw smoke benchmark into shards of at most ``SHARD_BYTES``."""
    pack(records(raw), out, dataset=benchmark_name("smoke"), shard_size_bytes=SHARD_BYTES)


def copy_of(data: Path, out: Path) -> Path:
    """A copy of a packed data set that a test may damage."""
    out.mkdir(parents=True)
    for path in [data / MANIFEST_NAME, *data.glob("*.tar")]:
        shutil.copy2(path, out / path.name)
    return out


def late_shard(data: Path, *, after_step: int, before_step: int) -> Path:
    """A shard of which no sample is drawn up to ``after_step``, but one before ``before_step``."""
    sources, plan = _plan(data, steps=before_step)
    steps: dict[str, int] = {}
    for step in range(before_step):
        for stream, places in plan.places(step).items():
            manifest = sources[stream].manifest
            for shard_id in manifest.shard_ids[places.rows].tolist():
                steps.setdefault(manifest.shards[shard_id].name, step)
    names = [name for name, step in steps.items() if step > after_step]
    assert names, steps
    return data / names[-1]


def pass_ends(data: Path) -> dict[str, int]:
    """The first step of each stream's second pass."""
    sources, plan = _plan(data, steps=1000)
    return {
        name: next(step for step in range(1000) if plan.places(step)[name].passes[0] == 1)
        for name in sources
    }


def _plan(data: Path, *, steps: int) -> tuple[dict[str, StreamSource], LoadingPlan]:
    config = load_config(CONFIGS / "astn.yaml", small(data, training__steps=steps))
    opened = OpenData(config)
    return opened.sources, opened.plan


class Damage:
    """What may happen to a shard while a run reads it, and the way back.

    ``removed`` is seen where the shard is opened, ``truncated`` and ``altered`` (one byte in the
    middle of every picture) where it is read.
    """

    def __init__(self, kind: str, shard: Path) -> None:
        self._kind, self._shard, self._content = kind, shard, shard.read_bytes()

    def do(self) -> None:
        if self._kind == "removed":
            self._shard.unlink()
        elif self._kind == "truncated":
            os.truncate(self._shard, 1024)
        else:
            assert self._kind == "altered"
            content = bytearray(self._content)
            for middle in _middles(self._shard):
                content[middle] ^= 255
            with self._shard.open("r+b") as file:  # into the very file that the run has open
                file.write(content)

    def undo(self) -> None:
        self._shard.write_bytes(self._content)


def _middles(shard: Path) -> list[int]:
    manifest = load_manifest(shard.parent)
    number = [s.name for s in manifest.shards].index(shard.name)
    rows = np.flatnonzero(manifest.shard_ids == number).tolist()
    members = [content_member(manifest, row) for row in rows]
    return [member.offset + member.size // 2 for member in members]
