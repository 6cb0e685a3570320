"""The counts that the authors of a data set published, against what is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from dataio.datasets.adapter_type import AdapterOptions
from dataio.findings import Findings
from dataio.records import Record

# In the order of the label ids of MI3DOR-2's and ModelNet40's lists.
MODELNET40_CLASSES: tuple[str, ...] = (
    "airplane", "bathtub", "bed", "bench", "bookshelf", "bottle", "bowl", "car", "chair", "cone",
    "cup", "curtain", "desk", "door", "dresser", "flower_pot", "glass_box", "guitar", "keyboard",
    "lamp", "laptop", "mantel", "monitor", "night_stand", "person", "piano", "plant", "radio",
    "range_hood", "sink", "sofa", "stairs", "stool", "table", "tent", "toilet", "tv_stand", "vase",
    "wardrobe", "xbox",
)  # fmt: skip


class Published(NamedTuple):
    """Classes in the order of their label ids, and counts by (stream, split): all, or by class."""

    name: str  # the adapter's; under another name the data are the user's own
    classes: tuple[str, ...]
    counts: Mapping[tuple[str, str], int | Mapping[str, int]]


def expect_counts(
    records: Iterable[Record],
    published: Published,
    *,
    options: AdapterOptions,
    present: Collection[str],
    findings: Findings,
) -> None:
    """Expect the published counts of a stream and split that is there.

    Only a whole data set is compared: `options` select no classes and the classes `present` are the
    published ones. One that has fewer classes is noted, one with classes of its own is not.
    """
    if options.name not in (None, published.name) or options.classes is not None:
        return
    if set(present) < set(published.classes):
        findings.note(
            f"{len(present)} of the {len(published.classes)} classes are here; counts are not "
            "compared with the published ones"
        )
    if set(present) != set(published.classes):
        return
    held = Counter((r.stream, r.split, r.label) for r in records)
    for (stream, split), wanted in published.counts.items():
        here = {name: held[stream, split, name] for name in published.classes}
        if not any(here.values()):
            continue
        total = wanted if isinstance(wanted, int) else sum(wanted.values())
        by_class = {} if isinstance(wanted, int) else wanted
        off = [f"{n} {here[n]} of {k}" for n, k in by_class.items() if here[n] != k]
        findings.expect(
            sum(here.values()) == total and not off,
            f"{sum(here.values()):,} {stream}s in {split}, {total:,} are published"
            + (f" ({', '.join(off)})" if off else ""),
        )
