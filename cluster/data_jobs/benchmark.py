"""Making the built-in benchmark: rendered, packed, and ready to train on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from cluster.terminal import task
from dataio.datasets import STYLES, benchmark_name, make_procedural, procedural_shrec, records
from dataio.meshes import described, render_mesh
from dataio.packing import pack
from dataio.parallel import in_processes
from dataio.records import DataError
from dataio.shards import MANIFEST_NAME, Manifest, load_manifest
from trainer.runs import naming


def make_benchmark(
    out: Path,
    *,
    size: str,
    seed: int,
    style: str = "a",
    layout: str = "mi3dor",
    workers: int | None = None,
) -> Manifest:
    """Build the procedural benchmark in ``out``, or open the one that is there.

    The raw files are in ``out/raw``. With the layout ``shrec`` sketches and shapes are also written
    to ``out/raw-shrec``, as SHREC'14 distributes its own, and packed from there.

    Raises:
        DataError: unknown size, style or layout, or ``out`` holds another data set.
        OSError: the disk is full or ``out`` cannot be written.
    """
    if layout not in ("mi3dor", "shrec"):
        raise DataError(f"procedural: no layout '{layout}'; choose from mi3dor, shrec")
    name = benchmark_name(size, style=style, layout=layout)
    if (out / MANIFEST_NAME).exists():
        return _require_benchmark(load_manifest(out), name=name, seed=seed)
    with naming(out), task(f"{name}: shapes and pictures") as bar:
        raw = make_procedural(
            out / "raw", size=size, seed=seed, style=style, workers=workers, progress=bar.at
        )
    more: dict[str, Any] = {}
    if layout == "shrec":
        with naming(out), task(f"{name}: meshes and sketches") as bar:
            raw = procedural_shrec.write_as_shrec(raw, out / "raw-shrec", progress=bar.at)
        spec = STYLES[style]
        more = {
            "render": partial(render_mesh, spec=spec),
            "run": in_processes(workers),
            "metadata": {"render": described(spec)},
        }
    with naming(out), task("packing shards") as bar:
        return pack(
            procedural_shrec.records(raw) if layout == "shrec" else records(raw),
            out,
            dataset=name,
            shard_size_bytes=8 << 20,
            seed=seed,
            progress=bar.at,
            **more,
        )


def _require_benchmark(manifest: Manifest, *, name: str, seed: int) -> Manifest:
    packed = manifest.metadata.get("dataset")
    packed_seed = manifest.metadata.get("options", {}).get("seed")
    if (packed, packed_seed) != (name, seed):
        raise DataError(
            f"{manifest.root}: holds data set '{packed}' with seed {packed_seed}, not "
            f"'{name}' with seed {seed}; use another --out"
        )
    return manifest
