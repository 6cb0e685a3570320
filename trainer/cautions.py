"""What a careful colleague would say of a run before it is started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainer.config import RunConfig


def cautions(config: RunConfig, facts: Mapping[str, Any]) -> list[str]:
    """Warnings, one line each, that follow from what :func:`trainer.explain.explain_run` found."""
    found = [
        f"{name}: {warning}"
        for name, stream in facts["streams"].items()
        if stream["drawn"]
        for warning in (*_workers(stream, facts["world_size"]), *_order(config, stream))
    ]
    missing = facts["queries"]["missing_in_gallery"]
    if missing:
        found.append(f"queries: no shape of the gallery is of class {', '.join(missing)}")
    if facts["cache"] != "none" and facts["cache_bytes"] > facts["memory_bytes"]:
        found.append(
            f"training.cache: all samples decoded take {facts['cache_bytes'] / 1e9:.1f} GB, the "
            f"machine has {facts['memory_bytes'] / 1e9:.1f} GB"
        )
    return found


def _workers(stream: Mapping[str, Any], world_size: int) -> Iterator[str]:
    """Workers without rows."""
    last, rows = stream["last_batch"], stream["batch"]
    if stream["balance"] is None:
        rows = min(rows, stream["samples"])
    if rows < world_size:
        yield f"batches of {rows} rows leave {world_size - rows} of {world_size} workers empty"
    elif last is not None and last < world_size:
        yield (
            f"the last batch of a pass ({last} of {stream['batch']} rows) leaves "
            f"{world_size - last} of {world_size} workers empty"
        )


def _order(config: RunConfig, stream: Mapping[str, Any]) -> Iterator[str]:
    """Passes and classes that come out oddly."""
    if stream["balance"] is not None:
        small = [f"{name} ({n})" for name, n in stream["balance"]["small_classes"].items()]
        if small:
            yield f"fewer samples than method.samples_per_class, so repeated: {', '.join(small)}"
        return
    if stream["last_batch"] == 1:
        yield "the last batch of a pass is a single row; another training.batch avoids it"
    if stream["passes"] < 1:
        share = f"{stream['passes']:.0%}"
        yield f"training.steps={config.training.steps} reads {share} of the samples, none twice"
