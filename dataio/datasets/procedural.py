"""The built-in benchmark: photos, sketches and 12-view shapes of up to 21 made-up categories.

It needs no download and behaves like the real task: queries and shapes never share an instance,
near-pairs of classes (chair and stool, bottle and vase, bookshelf and wardrobe) are easily mixed
up, and colour helps on photos but is absent from the grey views.

    root = make_procedural(Path("data/procedural"), size="small")
    for record in records(root): ...

Style "b" is a second domain for transfer between shape sets: all its instances are others, and its
views are lit from the upper left on black, between the stations of style "a".

The pictures depend on (BENCHMARK_VERSION, style, seed, instance) only, never on the size or on the
number of processes: numbers measured on one version can be compared.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dataio.datasets import mi3dor
from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.procedural_files import STYLES, Instance, is_written, write_instance
from dataio.datasets.shapes import CLASS_NAMES
from dataio.datasets.stamp import read_stamp, write_stamp
from dataio.findings import Findings
from dataio.parallel import in_processes
from dataio.records import DataError, Record

BENCHMARK_VERSION = 2  # changes whenever the instances of a size or their pixels do

_STAMP = "procedural.json"
_CHUNK = 16  # instances a task: about half a second
_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BenchmarkSize:
    """Classes and instances a class; the counts are (train, val, test)."""

    classes: tuple[str, ...]
    photos: tuple[int, int, int]
    shapes: tuple[int, int, int]
    sketches: tuple[int, int, int]


_SMOKE = ("bottle", "chair", "sofa", "stool", "vase")
_SMALL = (
    "bed", "bookshelf", "bottle", "chair", "lamp", "sofa", "stool", "table", "vase", "wardrobe",
)  # fmt: skip

SIZES: dict[str, BenchmarkSize] = {
    "smoke": BenchmarkSize(_SMOKE, (60, 10, 20), (30, 6, 15), (8, 2, 4)),
    "small": BenchmarkSize(_SMALL, (200, 20, 50), (60, 10, 30), (40, 10, 20)),
    "medium": BenchmarkSize(CLASS_NAMES, (200, 20, 50), (60, 10, 30), (40, 10, 20)),
    "large": BenchmarkSize(CLASS_NAMES, (600, 60, 100), (200, 30, 80), (200, 20, 50)),
}


def benchmark_name(size: str, *, style: str = "a", layout: str = "mi3dor") -> str:
    """What the packed data set is called, e.g. `procedural-small-b` or `procedural-small-shrec`."""
    other = [style] * (style != "a") + [layout] * (layout != "mi3dor")
    return "-".join(["procedural", size, *other])


def make_procedural(
    out: Path,
    *,
    size: str = "small",
    seed: int = 0,
    style: str = "a",
    workers: int | None = None,
    progress: Progress | None = None,
) -> Path:
    """Write the benchmark of the given `size` (smoke, small, medium, large) and `style` (a, b)
    under `out`.

    Uses `workers` processes (default: one a CPU; 1 = this process). `progress(done, total)` counts
    instances. A call that was interrupted is continued by calling again; a finished folder is
    returned at once. Returns `out`, to be read by `records`.

    Raises DataError for an unknown size or style, a negative seed, a folder that holds another
    benchmark (version, size, seed or style) or other data, and if a worker process dies.
    """
    if size not in SIZES:
        raise DataError(f"procedural: no size {size!r}; choose from {', '.join(SIZES)}")
    if style not in STYLES:
        raise DataError(f"procedural: no style {style!r}; choose from {', '.join(STYLES)}")
    if seed < 0:
        raise DataError(f"procedural: seed {seed} is negative; use 0 or more")
    if workers is not None and workers < 1:
        raise DataError(f"procedural: workers={workers}; use 1 or more")
    out = Path(out)
    key = {"benchmark_version": BENCHMARK_VERSION, "size": size, "seed": seed, "style": style}
    if _is_complete(out, key):
        return out
    out.mkdir(parents=True, exist_ok=True)
    _write_stamp(out, key, complete=False)
    wanted = list(instances(size, seed=seed, style=style))
    pending = [instance for instance in wanted if not is_written(instance, out)]
    _log.info("procedural %s: %d of %d instances to make", size, len(pending), len(wanted))
    done = len(wanted) - len(pending)
    if progress:
        progress(done, len(wanted))
    for made in _run(pending, out, workers=workers or os.cpu_count() or 1):
        done += made
        if progress:
            progress(done, len(wanted))
    _write_stamp(out, key, complete=True)
    return out


def records(
    root: Path, options: AdapterOptions | None = None, findings: Findings | None = None
) -> list[Record]:
    """The benchmark's records: the MI3DOR adapter under the name `procedural` (or `procedural-b`).

    Raises DataError if `root` holds no benchmark or an unfinished one.
    """
    stamp = made_benchmark(Path(root))
    # Keys of the two styles never meet, so both can be part of one data set.
    usual = "procedural" if stamp["style"] == "a" else f"procedural-{stamp['style']}"
    options = options or AdapterOptions()
    chosen = mi3dor.Options(name=options.name or usual, classes=options.classes)
    return mi3dor.records(Path(root), chosen, findings or Findings(usual))


def made_benchmark(root: Path) -> dict[str, Any]:
    """What `root` holds: benchmark_version, size, seed and style.

    Raises DataError if it holds no benchmark or an unfinished one.
    """
    stamp = _read_stamp(root)
    if stamp is None:
        inner = root / "raw"
        hint = f"; did you mean {str(inner)!r}?" if (inner / _STAMP).is_file() else ""
        raise DataError(
            f"procedural: no benchmark under {str(root)!r}; run make_procedural first{hint}"
        )
    if not stamp.pop("complete"):
        raise DataError(f"procedural: {str(root)!r} is unfinished; run make_procedural again")
    return stamp


def instances(size: str, *, seed: int = 0, style: str = "a") -> Iterator[Instance]:
    """Every instance of a size and style, class by class."""
    chosen = SIZES[size]
    counts = {"image": chosen.photos, "shape": chosen.shapes, "sketch": chosen.sketches}
    for category in chosen.classes:
        for stream, by_split in counts.items():
            for split, count in zip(("train", "val", "test"), by_split, strict=True):
                for number in range(1, count + 1):
                    yield Instance(stream, split, category, number, seed, style)


def _run(pending: list[Instance], out: Path, *, workers: int) -> Iterator[int]:
    """Write the pending instances; yields how many each finished chunk held."""
    chunks = [pending[k : k + _CHUNK] for k in range(0, len(pending), _CHUNK)]
    write = partial(_write_chunk, out=out)
    if min(workers, len(chunks)) <= 1:
        return map(write, chunks)
    return in_processes(min(workers, len(chunks)))(write, chunks)


def _write_chunk(chunk: list[Instance], out: Path) -> int:
    for instance in chunk:
        write_instance(instance, out)
    return len(chunk)


def _is_complete(out: Path, key: dict[str, Any]) -> bool:
    """Whether `out` is finished with this key; False if it may be (further) filled."""
    stamp = _read_stamp(out)
    if stamp is None:
        occupied = [name for name in ("image", "view", "model", "sketch") if (out / name).exists()]
        if occupied:
            raise DataError(
                f"procedural: {str(out)!r} already holds {occupied[0]!r} and no {_STAMP}; "
                "choose another folder"
            )
        return False
    held = {name: stamp.get(name) for name in key}
    if held != key:
        raise DataError(
            f"procedural: {str(out)!r} holds {_described(held)}, not {_described(key)}; "
            "choose another folder or delete this one"
        )
    return bool(stamp["complete"])


def _described(key: dict[str, Any]) -> str:
    named = f"version {key['benchmark_version']} size {key['size']} seed {key['seed']}"
    return named if key["style"] == "a" else f"{named} style {key['style']}"


def _read_stamp(out: Path) -> dict[str, Any] | None:
    stamp = read_stamp(out / _STAMP)
    return None if stamp is None else {"style": "a", **stamp}


def _write_stamp(out: Path, key: dict[str, Any], *, complete: bool) -> None:
    if key["style"] == "a":  # as before there were styles
        key = {name: value for name, value in key.items() if name != "style"}
    write_stamp(out / _STAMP, key, complete=complete)


ADAPTERS = (
    Adapter(
        name="procedural",
        title="The built-in benchmark: photos, sketches and 12-view shapes of made-up categories",
        layout="""\
procedural.json                                         made by `img2shape data make procedural`
image/{train,val,test}/<class>/<class>_<split>_photo_<NNNN>.jpg
sketch/{train,val,test}/<class>/<class>_<split>_sketch_<NNNN>.png
view/{train,val,test}/<class>/<shape>/<shape>_<VVV>.png    VVV = 001..012
model/{train,val,test}/<class>/<shape>.obj                 not packed""",
        terms="Made by this program; shards may be passed on.",
        options=AdapterOptions,
        records=records,
    ),
)
