"""``img2shape data pack`` and ``data index``: raw files, or tars that others wrote, to shards."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cluster.data_jobs.parallel import mapping
from cluster.data_jobs.rendering import (
    SHEET_NAME,
    read_dataset,
    say_upright,
    view_spec,
    with_up_axis,
    write_picture,
)
from cluster.terminal import Bar, say, shown, task
from dataio.checking import contact_sheet
from dataio.datasets import Adapter, AdapterOptions
from dataio.findings import Finding, Findings
from dataio.meshes import described, open_rendered, render_mesh, upright
from dataio.packing import SKIPPED_NAME, Views, index, pack
from dataio.records import SPLITS, DataError, Record
from dataio.shards import Manifest, is_remote, normal
from dataio.shards import shown as shown_place
from trainer.runs import naming

_REASONS = 3  # in the result, for what was left out


def pack_data(
    dataset: str,
    root: Path,
    out: Path,
    *,
    options: Sequence[str],
    splits: Sequence[str],
    shard_size_mb: int,
    views: Views,
    views_from: Path | None,
    max_size: int | None,
    preset: str,
    size: int,
    up_axis: str | None,
    seed: int,
    workers: int,
    lenient: bool,
    strict: bool,
) -> dict[str, Any]:
    """Pack a data set as its authors distribute it; continues what an earlier call began.

    The arguments are those of the command. `workers` are Ray tasks; 0 works in threads of this
    machine, or in processes where meshes are rendered.

    Raises:
        DataError: as `read_dataset` and `dataio.packing.pack`, or a split without samples.
        OSError: the disk is full or `out` cannot be written.
    """
    start_seconds = time.perf_counter()
    chosen, parsed, records, findings = read_dataset(
        dataset, root, options=options, lenient=lenient, strict=strict
    )
    records = with_up_axis(_of_splits(records, splits, findings.dataset), up_axis)
    metadata: dict[str, Any] = {"adapter": _adapter(chosen, parsed), "terms": chosen.terms}
    render = None
    if views_from is not None:
        records, metadata["render"] = _with_views(records, views_from, findings)
    elif any(record.mesh for record in records):
        spec = view_spec(preset, size=size)
        axes = {k.suffix: {"axis": k.axis, "because": k.because} for k in upright(records)}
        render, metadata["render"] = partial(render_mesh, spec=spec), described(spec, axes)
    _drop_place(findings, root)
    findings.metadata["source_root"] = root.resolve().name  # the origins begin under it
    with naming(out), task(f"{findings.dataset}: packing", len(records)) as bar:
        manifest = pack(
            records,
            out,
            dataset=findings.dataset,
            image_size=max_size,
            shard_size_bytes=shard_size_mb << 20,
            views=views,
            seed=seed,
            render=render,
            run=mapping(workers, meshes=sum(r.mesh is not None for r in records)),
            findings=findings,
            metadata=metadata,
            progress=_Progress(bar),
        )
    if render is not None:
        write_picture(contact_sheet(manifest), out / SHEET_NAME)
        findings.warnings += say_upright(records, out / SHEET_NAME)
    result = {
        **_result(manifest),
        "root": str(shown(out)),
        "skipped": len(findings.skipped),
        "reasons": [f"{one.item}: {one.reason}" for one in findings.skipped[:_REASONS]],
        "warnings": findings.warnings,
        "seconds": round(time.perf_counter() - start_seconds, 1),
    }
    _say_result(result)
    return result


def index_data(
    root: str,
    *,
    stream: str,
    split: str,
    tars: Sequence[str],
    class_names: Path | None,
    name: str | None,
    add: bool,
) -> dict[str, Any]:
    """Write a manifest for the tars in the folder `root`.

    Raises:
        DataError: as `dataio.packing.index`, or a URL.
    """
    if is_remote(root):
        raise DataError(
            f"{shown_place(root)}: indexing reads every byte; do it where the tars are files, and "
            "upload the manifest beside them: training then reads the URL"
        )
    start_seconds, folder = time.perf_counter(), Path(normal(root))
    with naming(folder), task("reading tars") as bar:
        manifest = index(
            folder,
            stream=stream,
            split=split,
            tars=tars,
            class_names=class_names,
            name=name,
            add=add,
            progress=bar.at,
        )
    result = {
        **_result(manifest),
        "root": str(shown(folder)),
        "skipped": 0,
        "reasons": [],
        "warnings": [],
        "seconds": round(time.perf_counter() - start_seconds, 1),
    }
    _say_result(result)
    return result


class _Progress:
    """Moves the bar, and says once what an earlier call had packed."""

    def __init__(self, bar: Bar) -> None:
        self._bar, self._begun = bar, False

    def __call__(self, done: int, total: int) -> None:
        if not self._begun and done > 1:
            say(f"continuing: {done} of {total} samples were packed already")
        self._begun = True
        self._bar.at(done, total)


def _of_splits(records: list[Record], splits: Sequence[str], dataset: str) -> list[Record]:
    held = Counter(record.split for record in records)
    for split in splits:
        if not held[split]:
            there = ", ".join(f"{one} ({held[one]})" for one in SPLITS if held[one]) or "none"
            raise DataError(f"{dataset}: no samples of --split {split}; there are: {there}")
    return [record for record in records if not splits or record.split in splits]


def _with_views(
    records: list[Record], folder: Path, findings: Findings
) -> tuple[list[Record], dict[str, Any]]:
    """The records with rendered views instead of meshes, and how these were rendered."""
    rendered, kept = open_rendered(folder), []
    for record in records:
        if record.mesh is None:
            kept.append(record)
            continue
        files = rendered.files(record.key, source=record.source_path)
        if files is not None:
            kept.append(dataclasses.replace(record, mesh=None, views=files))
            continue
        reason = rendered.reason(record.key)
        findings.defect(
            record.source_path,
            f"{record.source_path}: no views in {folder.name} ({reason or 'never rendered'})",
            remedy=f"run `img2shape data render` into {shown(folder)} again",
        )
    return kept, rendered.spec_json


def _adapter(chosen: Adapter, parsed: AdapterOptions) -> dict[str, Any]:
    """Name and options, with the last part of paths: the rest means nothing on other machines."""
    given = parsed.model_dump(mode="json", exclude_defaults=True)
    return {
        "name": chosen.name,
        "options": {
            key: Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
            for key, value in given.items()
        },
    }


def _drop_place(findings: Findings, root: Path) -> None:
    """Let paths in findings begin at `root`, since the manifest keeps no path of this machine."""

    def dropped(text: str) -> str:
        return text.replace(str(root.absolute()), root.name).replace(str(root), root.name)

    if root.name:
        findings.warnings[:] = map(dropped, findings.warnings)
        findings.skipped[:] = [
            Finding(dropped(s.item), dropped(s.reason)) for s in findings.skipped
        ]


def _result(manifest: Manifest) -> dict[str, Any]:
    groups = Counter(zip(manifest.streams.tolist(), manifest.splits.tolist(), strict=True))
    return {
        "dataset": manifest.metadata["dataset"],
        "samples": len(manifest),
        "counts": {f"{stream}/{split}": n for (stream, split), n in sorted(groups.items())},
        "classes": list(manifest.classes),
        "shards": len(manifest.shards),
        "size_bytes": sum(shard.size_bytes for shard in manifest.shards),
        "fingerprint": manifest.fingerprint,
    }


def _say_result(result: dict[str, Any]) -> None:
    counts = ", ".join(f"{kind} {n}" for kind, n in result["counts"].items())
    say(
        f"{result['dataset']}: {counts}; {len(result['classes'])} classes, "
        f"{result['shards']} shards, {result['size_bytes'] / 1e6:.1f} MB"
    )
    if result["skipped"]:
        say(f"left out: {result['skipped']}, listed in {result['root']}/{SKIPPED_NAME}; the first:")
        for reason in result["reasons"]:
            say(f"  {reason}")
    say(
        f"next: img2shape data verify {result['root']}\n"
        f"      img2shape train CONFIG data.root={result['root']}"
    )
