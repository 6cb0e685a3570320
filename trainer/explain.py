"""What a run will read, and which samples each of its steps has, told before it trains."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dataio.checking import chosen, read_headers
from dataio.loading import StreamSource, plan
from dataio.records import DataError
from dataio.shards import Manifest, content_member, shown
from trainer.config import RunConfig
from trainer.inputs import OpenData, differing_renderings, training_selections
from trainer.methods import METHODS
from trainer.sections import Selection
from trainer.validation import require_scorable

_HEADERS = 16  # pictures of a stream that are looked at to tell grey from colour


def explain_run(
    data: OpenData, *, world_size: int, memory_bytes: int | None = None
) -> dict[str, Any]:
    """What the run reads in each stream, as plain JSON values; no network is built.

    Args:
        data: of the run.
        world_size: training workers.
        memory_bytes: of a machine, to hold the cache against; None = this machine's.

    Raises:
        ConfigError, DataError: what training or evaluation would refuse.
    """
    data.require_trainable()
    require_scorable(data)
    config, sources = data.config, data.sources
    selections = training_selections(config)
    streams = {
        name: {
            **_described(source, selections[name]),
            "labelled": source.labelled,
            **_reading(config, name, sources, world_size=world_size),
        }
        for name, source in sources.items()
    }
    queries, gallery = (
        _evaluated(data, selection) for selection in (config.data.queries, config.data.gallery)
    )
    missing = sorted(set(queries.pop("names")) - set(gallery.pop("names")))
    result = {
        "method": config.method_name,
        "steps": config.training.steps,
        "world_size": world_size,
        "trunks": _trunks(config),
        "rates": config.optimizer.rates(pretrained=config.network.pretrained),
        "streams": streams,
        "queries": {**queries, "missing_in_gallery": missing},
        "gallery": gallery,
        "run_bytes": sum(stream["run_bytes"] or 0 for stream in streams.values()),
        "cache_bytes": sum(s["cache_bytes"] for s in streams.values() if s["drawn"]),
        "cache": config.training.cache,
        "memory_bytes": _machine_bytes() if memory_bytes is None else memory_bytes,
        "mapping": data.mapping,
    }
    return {**result, "warnings": [*_cautions(config, result), *differing_renderings(data)]}


def _trunks(config: RunConfig) -> list[dict[str, Any]]:
    """What goes into each trunk; one entry where images and shapes share it."""
    of = {"images and shapes": config.network}
    if METHODS[config.method_name].two_trunks:
        of = {"images": config.network.of("image"), "shapes": config.network.of("shape")}
    return [
        {
            "of": name,
            "backbone": network.backbone,
            "weights": network.weights,
            "train": network.train,
            "image_size": network.input_size,
            "pictures": network.resolved_preprocessing.describe(),
        }
        for name, network in of.items()
    ]


def replay_step(data: OpenData, *, step: int, world_size: int) -> dict[str, Any]:
    """The samples of one step by the plan that training follows; no pixels are read.

    For each stream that steps draw from: the `keys` of the global batch in order, the pass of each
    (`passes`), the view numbers of each (`views`, None for pictures), and every worker's part as
    [start, end) (`parts`).

    Raises:
        ConfigError, DataError: what training would refuse, or a step that the run does not have.
    """
    steps = data.config.training.steps
    if not 0 <= step < steps:
        raise DataError(
            f"step {step}: the run has {steps} steps, numbered from 0; choose one of these or "
            "raise training.steps"
        )
    found = {}
    for name, places in data.plan.places(step, world_size=world_size).items():
        manifest = data.sources[name].manifest
        found[name] = {
            "keys": [manifest.keys[row] for row in places.rows.tolist()],
            "passes": places.passes.tolist(),
            "views": places.views.tolist() if manifest.views[places.rows].any() else None,
            "parts": [list(bounds) for bounds in places.bounds],
        }
    return {
        "method": data.config.method_name,
        "step": step,
        "steps": steps,
        "world_size": world_size,
        "streams": found,
    }


def _cautions(config: RunConfig, facts: Mapping[str, Any]) -> list[str]:
    """What a careful colleague would warn of before the run starts, one line each."""
    found = [
        f"{name}: {warning}"
        for name, stream in facts["streams"].items()
        if stream["drawn"]
        for warning in (*_empty_workers(stream, facts["world_size"]), *_uneven(config, stream))
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


def _empty_workers(stream: Mapping[str, Any], world_size: int) -> Iterator[str]:
    """Batches that leave workers without rows."""
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


def _uneven(config: RunConfig, stream: Mapping[str, Any]) -> Iterator[str]:
    """Last batches of one row, repeated samples, and samples that are never read."""
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


def _described(source: StreamSource, selection: Selection) -> dict[str, Any]:
    manifest, rows = source.manifest, source.rows
    return {
        "data_set": _name(manifest),
        "root": shown(manifest.root),
        "stream": selection.stream,
        "split": selection.split,
        "samples": len(rows),
        "classes": len(_counts(source)),
        "shards": len(np.unique(manifest.shard_ids[rows])),
        "pass_bytes": int(_sizes(source).sum()),
    }


def _evaluated(data: OpenData, selection: Selection) -> dict[str, Any]:
    source = data.evaluation_source(selection)
    return {**_described(source, selection), "names": list(_counts(source))}


def _reading(
    config: RunConfig, name: str, sources: Mapping[str, StreamSource], *, world_size: int
) -> dict[str, Any]:
    """How a training stream is read: batches, passes, bytes, cache."""
    method, source = METHODS[config.method_name], sources[name]
    about = {"drawn": name not in method.walked, "cache_bytes": _cache_bytes(source)}
    if not about["drawn"]:  # looked at as a whole, as often as the method likes
        return {**about, "run_bytes": None}
    if method.balanced:
        drawn = [s for n, s in sources.items() if n not in method.walked]
        return {**about, **_balanced(config, source, drawn, world_size=world_size)}
    return {**about, **_passes(config, name, source, world_size=world_size)}


def _passes(
    config: RunConfig, name: str, source: StreamSource, *, world_size: int
) -> dict[str, Any]:
    samples, batch = len(source.rows), config.training.batch
    shard_ids = source.manifest.shard_ids[source.rows]
    in_pass = plan.steps_per_pass(samples, batch)
    whole, rest = divmod(config.training.steps, in_pass)
    order = plan.pass_order(
        shard_ids,
        seed=config.training.seed,
        stream_id=plan.stream_number(name),
        pass_index=whole,
        block_shards=config.data.block_shards,
    )
    last = samples - (in_pass - 1) * batch
    sizes = _sizes(source)
    return {
        "batch": batch,
        "rows_per_worker": _rows_per_worker((min(batch, samples), last), world_size),
        "steps_per_pass": in_pass,
        "passes": config.training.steps / in_pass,
        "last_batch": last,
        "padding": in_pass * batch - samples,
        "shards_at_once": min(config.data.block_shards, len(np.unique(shard_ids))),
        "run_bytes": int(whole * sizes.sum() + sizes[order[: rest * batch]].sum()),
        "balance": None,
    }


def _balanced(
    config: RunConfig, source: StreamSource, drawn: list[StreamSource], *, world_size: int
) -> dict[str, Any]:
    """P x K batches have no passes: a step draws P of the C classes that all streams have, so
    numbers over the run are expected values."""
    options: Any = config.method
    wanted, each = options.classes_per_batch, options.samples_per_class
    common = sorted(set.intersection(*(set(_counts(s)) for s in drawn)))
    counts, of_class = _counts(source), source.manifest.labels[source.rows]
    sizes = _sizes(source)
    class_bytes = [sizes[of_class == c].sum() * min(1.0, each / counts[c]) for c in common]
    class_steps = config.training.steps * wanted / len(common)
    return {
        "batch": wanted * each,
        "rows_per_worker": _rows_per_worker((wanted * each,), world_size),
        "steps_per_pass": None,
        "passes": class_steps * each * len(common) / sum(counts[c] for c in common),
        "last_batch": None,
        "padding": 0,
        "shards_at_once": len(np.unique(source.manifest.shard_ids[source.rows])),
        "run_bytes": round(class_steps * sum(class_bytes)),
        "balance": {
            "classes": len(common),
            "draws_per_class": class_steps * each,
            "small_classes": {c: counts[c] for c in common if counts[c] < each},
        },
    }


def _counts(source: StreamSource) -> Counter[str]:
    """Samples of each class of a source, unlabelled ones left out."""
    return Counter(x for x in source.manifest.labels[source.rows].tolist() if x is not None)


def _rows_per_worker(batches: tuple[int, ...], world_size: int) -> list[int]:
    """Fewest and most rows that a worker gets of batches of these sizes."""
    return [min(batches) // world_size, -(-max(batches) // world_size)]


def _sizes(source: StreamSource) -> np.ndarray:
    """Encoded bytes of each sample's pixels, int64 [N]."""
    members = (content_member(source.manifest, int(row)) for row in source.rows)
    return np.array([member.size for member in members], dtype=np.int64)


def _cache_bytes(source: StreamSource) -> int:
    """What all samples take up decoded: N·V·C·S² bytes, C = 1 where all that is seen is grey."""
    manifest, rows = source.manifest, source.rows
    channels = 3
    if not (manifest.streams[rows] == "image").any():
        # Of one shard, a fair sample of them all: at a URL it is fetched whole.
        near = rows[manifest.shard_ids[rows] == manifest.shard_ids[rows[0]]]
        headers = read_headers(manifest, chosen(manifest, near, _HEADERS))
        channels = max(header.channels for header in headers)
    views = max(1, int(manifest.views[rows].max()))
    return len(rows) * views * channels * source.decoded_size**2


def _name(manifest: Manifest) -> str:
    parts = manifest.metadata.get("union", [manifest.metadata])
    return " + ".join(str(part.get("dataset")) for part in parts)


def _machine_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
