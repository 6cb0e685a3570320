"""Photo-to-shape retrieval on real product pictures and meshes, from the download to the report."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cluster.cli.demo import write_results
from cluster.data_jobs import fetch_furniture, pack_data
from cluster.evaluation import evaluate_run
from cluster.training import train_run
from trainer.config import RunConfig, load_config
from trainer.shipped import CONFIGS

COMPARED = ("zero-shot", "source-only", "astn")
FURNITURE = Path("data") / "furniture"
PIXELS = 128  # a side of a view; the libraries' pictures have no more
VAL_SHARE = 0.15


def run_real(out: Path | None, *, library: Path | None = None) -> Path:
    """Libraries, pack, trainings, evaluations, one table, one report; returns the report.

    Everything that is already there is kept: a second call trains nothing, and one after an
    interruption continues. Each library has a data set and runs of its own.

    Args:
        out: folder of the runs; None: ``runs/real``, with the name of ``library``.
        library: a ``.sh3f`` file or a folder of them; None: Debian's package, which is fetched
            into ``data/furniture``.

    Raises:
        DataError: the package cannot be fetched, or the library is not usable.
        ConfigError: ``out`` holds runs on other data.
    """
    suffix = "" if library is None else f"-{_name(library)}"
    out = out or Path("runs") / f"real{suffix}"
    root = fetch_furniture(FURNITURE) if library is None else library
    data = Path("data") / f"catalogue{suffix}"
    _pack(root, data)
    runs = {method: out / method for method in COMPARED}
    results = {}
    for method, run in runs.items():
        train_run(real_config(method, data), run, workers=0)
        results[method] = evaluate_run(run)
    return write_results(runs, results, out, title="Furniture: real pictures against all shapes")


def real_config(method: str, data: Path) -> RunConfig:
    """The shipped description of a method on the catalogue in ``data``, whose classes count."""
    own = [f"data.root={json.dumps(str(data))}", "data.num_classes=null"]
    return load_config(CONFIGS / "catalogue" / f"{method}.yaml", own)


def _pack(root: Path, data: Path) -> None:
    """Pack and render the libraries as `configs/catalogue` says."""
    pack_data(
        "sh3f",
        root,
        data,
        options=[f"val_share={VAL_SHARE}"],
        splits=(),
        shard_size_mb=256,
        views="stack",
        views_from=None,
        max_size=None,
        preset="mvcnn_v1",
        size=PIXELS,
        up_axis=None,
        seed=0,
        workers=0,
        lenient=False,
        strict=False,
    )


def _name(library: Path) -> str:
    """A part of a folder's name: `Lamps 2.sh3f` is `lamps-2`."""
    return re.sub(r"[^a-z0-9]+", "-", library.resolve().stem.lower()).strip("-") or "library"
