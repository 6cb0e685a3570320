"""The loader against a plain DataLoader over files and against webdataset, in one run.

    python benchmarks/loader.py [--quick] [--json FILE] [--shapes 240] [--photos 480] [--batch 32]
                                [--workers 0 1 2] [--repeats 5] [--files png|jpg] [--only PART ...]

Makes its data in a temporary folder: shapes of 12 grey views 224×224, and photos 500×375. All
three pipelines deliver shuffled uint8 batches of the same shape, shapes [n, 12, C, 224, 224] and
photos [n, 3, 224, 224], without augmentation:

  files       one file a view, opened and decoded with Pillow by a map-style torch data set
  webdataset  the same shards as ours through webdataset: Pillow decodes the stack of 12 views,
              which is then cut; batches made in the workers
  ours        dataio.loading.loader.Loader; it gives grey views one channel, so for C = 3 they are
              repeated, which is part of the time

A pipeline runs endlessly, is warmed up, and then `repeats` stretches of batches are timed; shown
is the median. Besides: time to the first batch from the start and from a late step, bytes of what
a resumed run needs to know, what the caches give, and memory over 20 passes with its growth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loader_data import SIDE, VIEWS, write_photos, write_shapes
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from webdataset.compat import WebDataset, WebLoader

from dataio.loading import plan
from dataio.loading.loader import Loader, LoaderOptions
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.sources import StreamSource
from dataio.packing.records_to_shards import pack
from dataio.shards.manifest import Manifest

ENDLESS = 10**7
GOALS = {"files": 3.0, "webdataset": 1.5}
Batches = Iterator[torch.Tensor]


class Files(Dataset[torch.Tensor]):
    """The usual data set: files opened with Pillow, [V, C, S, S] or, of one file, [C, S, S]."""

    def __init__(self, samples: list[tuple[Path, ...]], channels: int) -> None:
        self._samples, self._mode = samples, "L" if channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        views = [self._picture(path) for path in self._samples[index]]
        return views[0] if len(views) == 1 else torch.stack(views)

    def _picture(self, path: Path) -> torch.Tensor:
        with Image.open(path) as picture:
            return planes(fitted(picture.convert(self._mode)))


def fitted(picture: Image.Image) -> Image.Image:
    if picture.size == (SIDE, SIDE):
        return picture
    return picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def planes(picture: Any) -> torch.Tensor:
    """A picture [H, W] or [H, W, C] as a tensor [C, H, W]."""
    pixels = np.array(picture)
    return torch.from_numpy(np.atleast_3d(pixels)).permute(2, 0, 1).contiguous()


def from_files(
    samples: list[tuple[Path, ...]], *, channels: int, batch: int, workers: int
) -> Batches:
    data = Files(samples, channels)
    sampler = RandomSampler(data, replacement=True, num_samples=ENDLESS)
    return iter(DataLoader(data, batch, sampler=sampler, num_workers=workers))


def from_webdataset(
    manifest: Manifest, stream: str, *, channels: int, batch: int, workers: int
) -> Batches:
    def cut(sample: dict[str, Any]) -> torch.Tensor:
        if stream == "image":
            return planes(fitted(sample["jpg"]))
        stack = planes(sample["views.jpg"])
        return stack.reshape(channels, VIEWS, SIDE, SIDE).transpose(0, 1).contiguous()

    used = np.unique(manifest.shard_ids[manifest.select(stream, "train")])
    paths = [str(Path(manifest.root) / manifest.shards[i].name) for i in used]
    shards: Any = WebDataset(paths, shardshuffle=len(paths))
    data = (
        shards.repeat()
        .shuffle(64)
        .decode("pill" if channels == 1 else "pil")
        .map(cut)
        .batched(batch, collation_fn=torch.stack)
    )
    return iter(WebLoader(data, batch_size=None, num_workers=workers))


def ours(
    manifest: Manifest,
    stream: str,
    *,
    channels: int,
    batch: int,
    start_step: int = 0,
    repeat: bool = True,
    **options: Any,
) -> Batches:
    """Our loader's batches; `repeat` gives grey ones `channels`."""
    rows = manifest.select(stream, "train")
    source = StreamSource(manifest, rows, manifest.classes, labelled=True, image_size=SIDE)
    loading = LoadingPlan({"stream": source}, batch=batch, seed=0, steps=ENDLESS)
    with Loader(loading, LoaderOptions(**options), start_step=start_step) as loader:
        for _, batches in loader:
            pixels = batches["stream"].pixels
            if repeat and pixels.shape[-3] < channels:
                pixels = pixels.expand(*pixels.shape[:-3], channels, -1, -1).contiguous()
            yield pixels


def rate(batches: Batches, *, warm: int, stretch: int, repeats: int) -> float:
    """Median samples a second over `repeats` stretches of batches, after `warm` batches."""
    for _ in range(warm):
        next(batches)
    rates = []
    for _ in range(repeats):
        start, samples = time.perf_counter(), 0
        for _ in range(stretch):
            samples += len(next(batches))
        rates.append(samples / (time.perf_counter() - start))
    return statistics.median(rates)


class Benchmark:
    """The data, the options, and what was measured."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.options, self.results = options, {}
        shapes = list(write_shapes(folder / "shapes", count=options.shapes, suffix=options.files))
        photos = list(write_photos(folder / "photos", count=options.photos))
        self.files = {
            "shape": [record.views or () for record in shapes],
            "image": [(record.image,) for record in photos if record.image],
        }
        self.manifest = pack(
            [*shapes, *photos], folder / "set", dataset="benchmark", shard_size_bytes=1 << 20
        )

    def throughput(self) -> None:
        """Samples a second of the three pipelines."""
        print(f"samples/s (images/s), batch {self.options.batch}, views as {self.options.files}")
        for stream, channels in (("shape", 1), ("shape", 3), ("image", 3)):
            lead = f"n, {VIEWS}" if stream == "shape" else "n"
            print(f"\n{stream}s, uint8 [{lead}, {channels}, {SIDE}, {SIDE}]")
            for workers in self.options.workers:
                self._compare(stream, channels, workers)

    def _compare(self, stream: str, channels: int, workers: int) -> None:
        common = {"channels": channels, "batch": self.options.batch, "workers": workers}
        pipelines: dict[str, Callable[[], Batches]] = {
            "files": lambda: from_files(self.files[stream], **common),
            "webdataset": lambda: from_webdataset(self.manifest, stream, **common),
            "ours": lambda: ours(self.manifest, stream, **common),
        }
        rates = {}
        for name, start in pipelines.items():
            batches = start()
            rates[name] = self._rate(batches)
            del batches  # its workers end
        images = VIEWS if stream == "shape" else 1
        shown = ", ".join(f"{name} {r:.0f} ({r * images:.0f})" for name, r in rates.items())
        ratios = {name: rates["ours"] / rates[name] for name in GOALS}
        print(f"  workers {workers}: {shown}; " + goals(ratios))
        self.results[f"{stream}s, {channels} channels, {workers} workers"] = {
            "samples_per_second": rates, "ratio": ratios
        }  # fmt: skip

    def _rate(self, batches: Batches, *, warm: int | None = None) -> float:
        options = self.options
        return rate(batches, warm=warm or 4, stretch=options.stretch, repeats=options.repeats)

    def first_batch(self) -> None:
        """Time to the first batch, from step 0 and from a late one."""
        print("\nseconds to the first batch of a fresh loader")
        length = plan.steps_per_pass(self.options.shapes, self.options.batch)
        for workers in self.options.workers:
            seconds: dict[str, float] = {}
            steps = {"cold": 0, "resumed": 1000 * length}
            timed = {name: [] for name in steps}
            for _ in range(self.options.repeats + 1):  # the first starts the workers' server
                for name, step in steps.items():
                    timed[name].append(self._first(step, workers))
            seconds = {name: statistics.median(times[1:]) for name, times in timed.items()}
            ratio = seconds["resumed"] / seconds["cold"]
            print(
                f"  workers {workers}: step 0 {seconds['cold']:.3f}, step {steps['resumed']} "
                f"{seconds['resumed']:.3f}, ratio {ratio:.2f} (goal ≤ 1.5)"
            )
            self.results[f"first batch, {workers} workers"] = {**seconds, "ratio": ratio}
        state = len(json.dumps({"seed": 2**64 - 1, "step": ENDLESS}).encode())
        print(f"bytes a resumed run needs to know (seed and step): {state} (goal ≤ 1024)")
        self.results["state_bytes"] = state

    def _first(self, step: int, workers: int) -> float:
        options = {"batch": self.options.batch, "workers": workers, "start_step": step}
        start = time.perf_counter()
        with closing(ours(self.manifest, "shape", channels=1, **options)) as batches:  # type: ignore[arg-type]
            next(batches)
            return time.perf_counter() - start

    def caches(self) -> None:
        """Samples a second with each cache, when all is in it."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        print(f"\nshapes/s by cache once it is full (device: {device})")
        warm = 2 * plan.steps_per_pass(self.options.shapes, self.options.batch)
        for workers in self.options.workers:
            rates = {}
            for cache in ("none", "ram", "device"):
                options = {"batch": self.options.batch, "workers": workers, "cache": cache}
                batches = ours(
                    self.manifest,
                    "shape",
                    channels=1,
                    device=device,
                    cache_bytes=1 << 32,
                    **options,
                )
                rates[cache] = self._rate(batches, warm=warm)
                del batches
            shown = ", ".join(f"{name} {r:.0f}" for name, r in rates.items())
            print(f"  workers {workers}: {shown}; ram/none {rates['ram'] / rates['none']:.1f}")
            self.results[f"caches, {workers} workers"] = rates

    def memory(self) -> None:
        """Memory of this process and its workers, shared pages counted once, over passes."""
        marks = (1, 5, 10, 20)
        workers = max(self.options.workers)
        print(f"\nMiB in memory with {workers} workers after pass {', '.join(map(str, marks))}")
        length = plan.steps_per_pass(self.options.shapes, self.options.batch)
        for cache in ("none", "ram"):
            options = {"batch": self.options.batch, "workers": workers, "cache": cache}
            held: list[float] = []
            for step, _ in enumerate(ours(self.manifest, "shape", channels=1, **options), 1):
                if step in {mark * length for mark in marks}:
                    held.append(resident_mib())
                if len(held) == len(marks):
                    break
            growth = held[-1] - held[0]
            shown = ", ".join(f"{mib:.0f}" for mib in held)
            print(f"  cache {cache}: {shown}; growth {growth:+.0f} ({growth / held[0]:+.1%})")
            self.results[f"memory, cache {cache}"] = {"passes": marks, "mib": held}


def goals(ratios: dict[str, float]) -> str:
    return ", ".join(f"{r:.2f}× {name} (goal {GOALS[name]:g})" for name, r in ratios.items())


def resident_mib() -> float:
    """Proportional set size of this process and its children in MiB; NaN where unknown."""
    pids = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
    try:
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    except OSError:
        return float("nan")
    lines = [line for text in rollups for line in text.splitlines() if line.startswith("Pss:")]
    return sum(int(line.split()[1]) for line in lines) / 1024


def parsed() -> argparse.Namespace:
    parts = ("throughput", "first_batch", "caches", "memory")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--shapes", type=int, default=240)
    parser.add_argument("--photos", type=int, default=480)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--stretch", type=int, default=12, help="batches of one measurement")
    parser.add_argument("--files", choices=("png", "jpg"), default="png")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--quick", action="store_true", help="small, to see that it works")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    if options.quick:
        options.shapes, options.photos, options.batch = 48, 64, 16
        options.repeats, options.stretch = 3, 4
    return options


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)  # as in loader workers, for all pipelines
    with tempfile.TemporaryDirectory() as folder:
        benchmark = Benchmark(Path(folder), options)
        for part in options.only:
            getattr(benchmark, part)()
    if options.json:
        options.json.write_text(json.dumps(benchmark.results, indent=2) + "\n")


if __name__ == "__main__":
    main()
