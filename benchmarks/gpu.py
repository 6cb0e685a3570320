"""Training steps on a GPU: pictures a second, share of the peak arithmetic, memory.

    python benchmarks/gpu.py [--networks alexnet resnet50] [--modes eager compiled]
                             [--loader off on] [--batch 76] [--method astn] [--micro-batch N]
                             [--workers 8] [--repeats 7] [--stretch 10] [--peak-tflops X]
                             [--out FILE]
    python benchmarks/gpu.py --cpu      tiny sizes: proves that it works, measures nothing

A step is the training loop's own (``Trainer``): augmentation on the device, forward pass in bf16
autocast and channels last, the method's losses, backward pass, checks, optimiser. A batch is 76
labelled photos and 76 shapes of 12 views, 988 pictures. With the loader off one batch stays on the
device; with it on, batches come from shards, written first into a temporary folder, through loader
processes, decoding and copying included.

Each figure is the median over stretches of steps, with the smallest and the largest; the device is
waited for at both ends of a stretch only. MFU, the share of the peak, counts 2 operations for each
multiply-add of the trunk's convolutions and linear layers, 3 times for forward and backward pass,
against the dense bf16 peak of the device by its name, or --peak-tflops; it is left out where that
is unknown. Recomputation (--micro-batch) does not count as work. ``--out`` writes JSON to FILE.json
and the Markdown table to FILE.md.

Of this project's dependencies it needs torch, torchvision, numpy, scipy, scikit-learn, pyarrow,
pillow, simplejpeg, pydantic, PyYAML and webdataset: no Ray, no faiss, no terminal packages. It ends
with 2 where there is no GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # no installation needed

import numpy
import torch
from loader_data import VIEWS, write_photos, write_shapes

from dataio.packing.records_to_shards import pack
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.inputs.device_copies import on_device
from trainer.inputs.streams import training_loader
from trainer.loop import Trainer
from trainer.networks.complexity import measure
from trainer.networks.torchvision_shim import import_torchvision
from trainer.runs.run_folder import RunFolder

# Dense bf16 TFLOP/s by a part of the device's name, from the makers' data sheets.
PEAKS = {
    "B200": 2250.0, "H200": 989.0, "H100 PCIe": 756.0, "H100": 989.0, "A100": 312.0, "A40": 150.0,
    "L40S": 362.0, "L4": 121.0, "A10G": 70.0, "A10": 125.0, "RTX 4090": 165.0,
}  # fmt: skip
ENDLESS = 10**6


@dataclass(frozen=True)
class Row:
    """What one network in one mode came to; seconds are those of a step."""

    network: str
    mode: str
    loader: str
    pictures: int
    seconds: float
    fastest: float
    slowest: float
    pictures_per_second: float
    tflops: float
    mfu: float | None
    peak_gib: float | None


def configuration(options: argparse.Namespace, root: Path, network: str, mode: str) -> RunConfig:
    """A run on the shards in ``root``; its steps never end."""
    return parse_config(
        {
            "method": {"name": options.method},
            "data": {"root": str(root), "train_views": options.views},
            "network": {"backbone": network, "image_size": options.image_size},
            "optimizer": {"learning_rate": 1e-4},
            "training": {
                "steps": ENDLESS,
                "batch": options.batch,
                "precision": "bf16",
                "log_every": ENDLESS,
                "checkpoint_every": ENDLESS,
                "loader_workers": options.workers,
            },
            "strategy": {
                "compile": mode == "compiled",
                "micro_batch": options.micro_batch,
                "channels_last": True,
            },
        }
    )


@contextmanager
def batches(trainer: Trainer, *, resident: bool) -> Iterator[Iterator[dict[str, Any]]]:
    """Batches on the device: those of the shards, or the first of them again and again."""
    device = trainer.device
    with training_loader(trainer.data, device=device) as loader:
        read = (batch for _, batch in on_device(iter(loader), device))
        if not resident:
            yield read
            return
        first = next(read)
    yield iter(lambda: first, None)


def stretch_seconds(
    trainer: Trainer, found: Iterator[dict[str, Any]], *, warm: int, stretch: int, repeats: int
) -> list[float]:
    """Seconds a step in each of ``repeats`` stretches, after ``warm`` steps."""
    seconds: list[float] = []
    _steps(trainer, found, warm)
    if trainer.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(trainer.device)
    for _ in range(repeats):
        _wait(trainer.device)
        start = time.perf_counter()
        _steps(trainer, found, stretch)
        _wait(trainer.device)
        seconds.append((time.perf_counter() - start) / stretch)
    return seconds


def _steps(trainer: Trainer, found: Iterator[dict[str, Any]], count: int) -> None:
    for _ in range(count):
        trainer._train_step(next(found), logged=False)
        trainer.step += 1


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(config: RunConfig, mode: str, loader: str, options: argparse.Namespace) -> Row:
    """Train on the device for a while."""
    device = torch.device("cpu" if options.cpu else "cuda")
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, RunFolder(Path(folder)), device=device)
        try:
            with batches(trainer, resident=loader == "off") as found:
                seconds = stretch_seconds(
                    trainer,
                    found,
                    warm=options.warm,
                    stretch=options.stretch,
                    repeats=options.repeats,
                )
        finally:
            trainer.observers.close()
        pictures = options.batch * (1 + (options.views or VIEWS))
        median = statistics.median(seconds)
        tflops = 6e-12 * trunk_multiply_adds(trainer) * pictures / median
    peak = None if options.peak_tflops is None else tflops / options.peak_tflops
    memory = None if options.cpu else torch.cuda.max_memory_allocated() / 2**30
    return Row(
        network=config.network.backbone,
        mode=mode,
        loader=loader,
        pictures=pictures,
        seconds=median,
        fastest=min(seconds),
        slowest=max(seconds),
        pictures_per_second=pictures / median,
        tflops=tflops,
        mfu=peak,
        peak_gib=memory,
    )


def trunk_multiply_adds(trainer: Trainer) -> int:
    """Multiply-adds of convolutions and linear layers for one picture."""
    network, side = trainer.method.network, trainer.config.network.input_size
    network.trunk.compiled = False
    image = torch.zeros(1, 3, side, side, device=trainer.device)
    cost = measure(network, lambda: network.embed_images(image))
    return sum(x.bare_multiply_adds for x in cost.layers if x.name.startswith("trunk."))


def markdown(rows: list[Row], facts: dict[str, Any]) -> str:
    lines = [
        f"{facts['device']}, {facts['date']}, torch {facts['torch']}, torchvision "
        f"{facts['torchvision']}, numpy {facts['numpy']}, Python {facts['python']}; "
        f"method {facts['method']}, bf16, channels last, {rows[0].pictures} pictures a step"
        + ("" if facts["micro_batch"] is None else f", {facts['micro_batch']} at a time"),
        "",
        "| network | trunk | loader | ms a step (range) | pictures/s | TFLOP/s | MFU | peak GiB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        times = f"{r.seconds * 1e3:.1f} ({r.fastest * 1e3:.1f}-{r.slowest * 1e3:.1f})"
        mfu = "-" if r.mfu is None else f"{r.mfu:.1%}"
        memory = "-" if r.peak_gib is None else f"{r.peak_gib:.1f}"
        lines.append(
            f"| {r.network} | {r.mode} | {r.loader} | {times} | {r.pictures_per_second:.0f} | "
            f"{r.tflops:.2f} | {mfu} | {memory} |"
        )
    return "\n".join(lines) + "\n"


def facts_of(options: argparse.Namespace) -> dict[str, Any]:
    """Where and with what this ran."""
    device = f"CPU ({platform.machine()}), no measurement: it shows that the benchmark works"
    return {
        "device": device if options.cpu else torch.cuda.get_device_name(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "torchvision": import_torchvision().__version__,
        "numpy": numpy.__version__,
        "python": platform.python_version(),
        "method": options.method,
        "batch": options.batch,
        "workers": options.workers,
        "micro_batch": options.micro_batch,
        "peak_tflops": options.peak_tflops,
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--networks", nargs="+", default=["alexnet", "resnet50"])
    parser.add_argument("--modes", nargs="+", choices=("eager", "compiled"))
    parser.add_argument("--loader", nargs="+", choices=("off", "on"), default=["off", "on"])
    parser.add_argument("--method", choices=("astn", "source-only"), default="astn")
    parser.add_argument("--batch", type=int, default=76, help="photos, and shapes, of a batch")
    parser.add_argument("--micro-batch", type=int, help="strategy.micro_batch")
    parser.add_argument("--workers", type=int, default=8, help="loader processes")
    parser.add_argument("--warm", type=int, default=10, help="steps before the first stretch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--stretch", type=int, default=10, help="steps of one measurement")
    parser.add_argument("--peak-tflops", type=float, help="dense bf16 peak of the device")
    parser.add_argument("--out", type=Path, help="write FILE.json and FILE.md")
    parser.add_argument("--cpu", action="store_true", help="tiny sizes on the CPU, as a check")
    options = parser.parse_args()
    options.views, options.image_size = None, None
    options.modes = options.modes or (["eager"] if options.cpu else ["eager", "compiled"])
    if options.cpu:
        options.networks, options.batch, options.views, options.image_size = ["tiny"], 3, 2, 32
        options.warm, options.repeats, options.stretch, options.workers = 1, 2, 1, 0
        torch.set_num_threads(1)
    elif not torch.cuda.is_available():
        print("no GPU that torch can use; --cpu shows at tiny sizes that this works")
        raise SystemExit(2)
    elif options.peak_tflops is None:
        name = torch.cuda.get_device_name()
        options.peak_tflops = next((peak for key, peak in PEAKS.items() if key in name), None)
    return options


def main() -> None:
    options = parsed()
    facts, rows = facts_of(options), []
    print(facts["device"], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder) / "set", 2 * options.batch
        photos = write_photos(Path(folder) / "photos", count=2 * count)
        shapes = write_shapes(Path(folder) / "shapes", count=count, suffix="jpg")
        pack([*photos, *shapes], root, dataset="benchmark", shard_size_bytes=8 << 20)
        for network in options.networks:
            for mode in options.modes:
                for loader in options.loader:
                    config = configuration(options, root, network, mode)
                    rows.append(measured(config, mode, loader, options))
                    print(json.dumps(asdict(rows[-1])), flush=True)
                    gc.collect()  # the trainer is a cycle, and holds the device's memory
                    if not options.cpu:
                        torch.cuda.empty_cache()
    print(f"\n{markdown(rows, facts)}")
    if options.out:
        text = json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=2)
        options.out.with_suffix(".json").write_text(text + "\n")
        options.out.with_suffix(".md").write_text(markdown(rows, facts))


if __name__ == "__main__":
    try:
        main()
    except ConfigError as err:
        print(err, file=sys.stderr)
        raise SystemExit(2) from None
