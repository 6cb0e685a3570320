"""The data of a run: whether they can be read, how they spread over workers, what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.doctor.findings import Finding, error, note, ok, warning

_SLOW_SECONDS = 5.0  # for one sample; a shard of a URL is fetched whole before
_MANY = 0.01  # share of samples in quarantine that is more than bad luck


def check_reading(root: str, *, seconds: float, failure: str | None = None) -> Finding:
    """One sample of each stream was read in ``seconds``, or ``failure`` says why not."""
    if failure is not None:
        remedy = "`img2shape data verify` says what is damaged; data.root chooses the data set"
        return error("data", failure, remedy)
    if seconds > _SLOW_SECONDS:
        message = f"{root}: the first samples took {seconds:.1f} s"
        return warning("data", message, "copy it nearer, or training.loader_workers=2 or more")
    return ok("data", f"{root}: manifest and first samples read in {seconds:.1f} s")


def check_spread(shards: Mapping[str, int], *, ranks: int, loader_workers: int) -> list[Finding]:
    """The shards of each stream against the processes that read them at the same time."""
    readers = ranks * max(1, loader_workers)
    few = {name: count for name, count in shards.items() if count < readers}
    if not few:
        return [ok("shards", f"enough for {readers} readers in every stream")]
    listed = ", ".join(f"{name} {count}" for name, count in few.items())
    message = f"{readers} processes read, but there are fewer shards: {listed}"
    remedy = "pack with a smaller --shard-size-mb if reading is slow; the batches are the same"
    return [(warning if ranks > min(few.values()) else note)("shards", message, remedy)]


def check_streams(cautions: list[str]) -> list[Finding]:
    """What `img2shape data explain` warns of."""
    remedy = "`img2shape data explain CONFIG` shows the streams"
    return [warning("streams", text, remedy) for text in cautions]


def check_quarantine(left_out: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """By data set: samples in quarantine, and all samples."""
    found = []
    for root, (count, total) in left_out.items():
        message = f"{root}: {count} of {total} samples are in quarantine"
        if count > _MANY * total:
            remedy = f"`img2shape data verify {root}` lists them; copy or pack the set again"
            found.append(warning("quarantine", message, remedy))
        elif count:
            found.append(note("quarantine", message, "training leaves them out"))
    return found or [ok("quarantine", "no sample is left out")]


def stream_shards(explained: Mapping[str, Any]) -> dict[str, int]:
    """Shards by stream, of what :func:`trainer.explain.explain_run` found."""
    return {name: stream["shards"] for name, stream in explained["streams"].items()}
