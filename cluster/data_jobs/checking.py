"""``img2shape data verify`` and ``data inspect``: the jobs, and their results as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from cluster.tables import standard_output
from cluster.terminal import task
from dataio.checking import (
    SameContent,
    Soundness,
    check,
    class_counts,
    contact_sheet,
    describe,
    groups,
    one_sided,
)
from dataio.checking import repair as quarantine_bad
from dataio.parallel import in_threads
from dataio.records import DataError
from dataio.shards import Manifest, is_remote, load_manifest, shown
from evalsuite.atomic import write_atomically

_MOST_LINES = 20  # of a list on a terminal; --json has all of it


def verify_data(root: str, *, repair: bool) -> dict[str, Any]:
    """Check a packed data set and, with ``repair``, put its bad samples into quarantine.

    ``ok`` says that one can train on it: all bad samples are in quarantine, each stream and split
    has samples left, and no content is in several splits.

    Raises:
        DataError: there is no data set, it is not usable at all, or ``repair`` of a URL.
    """
    if repair and is_remote(root):
        raise DataError(f"{shown(root)}: not a folder; repair a local copy and upload that")
    with task("checking samples") as bar:
        # Threads suffice, since hashing and decoding release the interpreter's lock.
        found = check(root, run=in_threads(), progress=bar.at)
    before = len(found.quarantine.samples)
    after = len(quarantine_bad(found).samples) if repair else before
    bad = bool(found.bad_samples or found.bad_shards)
    return {
        "ok": found.sound or (repair and not found.leaks and not found.lost),
        "root": shown(root),
        "samples": len(found.manifest),
        "shards": len(found.shards),
        "size_bytes": sum(shard.size_bytes or 0 for shard in found.shards),
        "bad_samples": [asdict(sample) for sample in found.bad_samples],
        "bad_shards": [{"name": s.name, "reason": s.reason} for s in found.bad_shards],
        **_same_contents(found),
        "groups": {kind: len(rows) for kind, rows in groups(found.manifest).items()},
        "classes": class_counts(found.manifest),
        "one_sided": one_sided(found.manifest),
        "repaired": repair and bad,
        "quarantined": after,
        "lost": list(found.lost),
    }


def _same_contents(found: Soundness) -> dict[str, Any]:
    repeats: Counter[str] = Counter()
    for same in found.repeats:
        splits = Counter(found.manifest.splits[list(same.rows)].tolist())
        repeats.update({f"{same.stream}/{split}": n - 1 for split, n in splits.items() if n > 1})
    return {
        "repeats": dict(repeats),
        "leaks": [_listed(same, found.manifest) for same in found.leaks],
        "conflicts": [_listed(same, found.manifest) for same in found.conflicts],
    }


def _listed(same: SameContent, manifest: Manifest) -> dict[str, Any]:
    samples = [
        {"key": manifest.keys[r], "split": str(manifest.splits[r]), "label": manifest.labels[r]}
        for r in same.rows
    ]
    return {"stream": same.stream, "samples": samples}


def print_check(result: Mapping[str, Any]) -> None:
    """What :func:`verify_data` found: bad samples, leaks, the classes of each stream and split."""
    _print_classes(result)
    _print_list(
        "bad shards", ("shard", "reason"), [(s["name"], s["reason"]) for s in result["bad_shards"]]
    )
    _print_list(
        "bad samples",
        ("sample", "of", "shard", "reason"),
        [
            (s["key"], f"{s['stream']}/{s['split']}", s["shard"], s["reason"])
            for s in result["bad_samples"]
        ],
    )
    for kind, title in (
        ("leaks", "the same content in several splits"),
        ("conflicts", "the same content with several labels"),
    ):
        rows = [(same["stream"], _sample_names(same)) for same in result[kind]]
        _print_list(title, ("stream", "samples"), rows)
    for line in _verdict(result):
        standard_output().print(Text(line), soft_wrap=True)


def _sample_names(same: Mapping[str, Any]) -> str:
    return ", ".join(f"{s['split']}/{s['key']} ({s['label']})" for s in same["samples"])


def _verdict(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{result['root']}: {result['samples']} samples in {result['shards']} shards "
        f"({decimal(result['size_bytes'])}) read"
    ]
    lines += [f"{n} repeated pictures in {kind}" for kind, n in result["repeats"].items()]
    if result["quarantined"]:
        lines.append(
            f"{result['quarantined']} samples in quarantine.json, left out of training; to use "
            "them again, restore the shards and delete that file"
        )
    if result["lost"]:
        lines.append(f"no good sample is left of {', '.join(result['lost'])}")
    if result["leaks"]:
        lines.append("leaks stay as they are: drop one side from the source data and pack again")
    if not result["repaired"] and (result["bad_samples"] or result["bad_shards"]):
        lines.append("copy the bad shards again, or leave bad samples out with --repair")
    lines.append("sound" if result["ok"] else "not sound")
    return lines


def inspect_data(root: str, *, sheet: Path | None) -> dict[str, Any]:
    """What a packed data set holds; writes a contact sheet to ``sheet``, a PNG.

    Raises:
        DataError: there is no data set, or a header that is looked at cannot be read.
    """
    manifest = load_manifest(root)
    with task("reading headers"):
        result = describe(manifest)
    result["root"] = shown(root)
    result["sheet"] = None if sheet is None else str(sheet)
    if sheet is not None:
        with task("contact sheet"):
            picture = contact_sheet(manifest)
            write_atomically(sheet, lambda path: picture.save(path, format="PNG"))
    return result


def print_inspection(result: Mapping[str, Any]) -> None:
    """Tables of :func:`inspect_data`."""
    table = Table(box=box.SIMPLE_HEAD, caption="shards and sizes: smallest - median - largest")
    table.add_column("stream/split", overflow="fold")
    names = ("samples", "classes", "size", "shards", "shard size", "per shard", "height", "width")
    for name in (*names, "views", "grey", "headers"):
        table.add_column(name, justify="right", overflow="fold")
    for kind, group in result["groups"].items():
        cells = (
            group["samples"], group["classes"], decimal(group["content_bytes"]),
            group["shards"], _range(group["shard_bytes"], show=decimal),
            _range(group["samples_per_shard"]), _range(group["height"]), _range(group["width"]),
            _range(group["views"]) if "views" in group else "–", f"{group['grey_share']:.0%}",
            group["headers_read"],
        )  # fmt: skip
        table.add_row(kind, *map(str, cells))
    standard_output().print(table)
    _print_classes(result)
    lines = [f"{name}: {_plain(value)}" for name, value in result["metadata"].items()]
    lines.insert(0, f"{result['root']}: {result['dataset']}, {decimal(result['size_bytes'])}")
    if result["sheet"]:
        lines.append(f"contact sheet: {result['sheet']}")
    for line in lines:
        standard_output().print(Text(line), soft_wrap=True)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_plain(one)}" for name, one in value.items())
    return str(value)


def _print_classes(result: Mapping[str, Any]) -> None:
    kinds = list(result["groups"])
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("class", overflow="fold")
    for kind in kinds:
        table.add_column(kind, justify="right", overflow="fold")
    for name, counts in result["classes"].items():
        table.add_row(Text(name), *(str(counts.get(kind, "–")) for kind in kinds))
    standard_output().print(table)
    for split, sides in result["one_sided"].items():
        for side, names in sides.items():
            if names:
                line = f"{split}: {side.replace('_', ' ')}: {', '.join(names)}"
                standard_output().print(Text(line), soft_wrap=True)


def _print_list(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    hidden = len(rows) - _MOST_LINES
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{len(rows)} {title}",
        caption=f"and {hidden} more, see --json" if hidden > 0 else None,
    )
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows[:_MOST_LINES]:
        table.add_row(*(Text(cell) for cell in row))
    standard_output().print(table)


def _range(spread: Mapping[str, int], *, show: Any = str) -> str:
    least, middle, most = (show(spread[name]) for name in ("min", "median", "max"))
    return least if least == most else f"{least} - {middle} - {most}"
