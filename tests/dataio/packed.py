"""A small data set of pictures and shapes for the tests of this folder, and loaders of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dataio.loading.loader import Loader, LoaderOptions
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.sources import StreamSource
from dataio.packing.records_to_shards import pack
from dataio.records import Record
from dataio.shards.manifest import Manifest


def picture(seed: int, side: int = 32, *, channels: int = 3) -> np.ndarray:
    """A smooth random picture uint8 [side, side, channels]; JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(smooth if channels == 3 else smooth.convert("L").convert("RGB"))


def records(raw: Path, *, images: int = 22, shapes: int = 13, views: int = 5) -> Iterator[Record]:
    """Write raw files under `raw` and yield their records: image/train and shape/train, test."""
    raw.mkdir(parents=True, exist_ok=True)
    for i in range(images):
        path = raw / f"photo{i}.{'jpg' if i % 2 else 'png'}"
        Image.fromarray(picture(i)).save(path)
        yield Record(
            f"photo-{i:03d}", "image", "train", f"class{i % 3}", image=path, source_path=path.name
        )
    for i in range(shapes):
        paths = []
        for v in range(views):
            paths.append(raw / f"shape{i}_{v}.png")
            Image.fromarray(picture(1000 + 20 * i + v, channels=1)).save(paths[-1])
        yield Record(
            f"shape-{i:03d}", "shape", "test" if i % 4 == 3 else "train", f"class{i % 3}",
            views=tuple(paths), source_path=f"shape{i}", extra={"number": i},
        )  # fmt: skip


def packed(folder: Path, **options: object) -> Manifest:
    """Pack `records` into several small shards under `folder`/set."""
    settings: dict = {"dataset": "tiny", "shard_size_bytes": 12_000, **options}
    return pack(records(folder / "raw"), folder / "set", **settings)


def open_loader(sources: Mapping[str, StreamSource], **settings: Any) -> Loader:
    """A loader of `sources`; each setting goes to the plan, the options or the loader itself."""
    planned, machine = (
        {f.name: settings.pop(f.name) for f in fields(kind) if f.name in settings}
        for kind in (LoadingPlan, LoaderOptions)
    )
    return Loader(LoadingPlan(sources, **planned), LoaderOptions(**machine), **settings)
