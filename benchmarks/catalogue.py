"""Every method on real pictures: the furniture catalogue, classes and exact shapes.

    python benchmarks/catalogue.py --library FOLDER [--seeds 5] [--only astn dca] [--jobs 2]
        [--validation] [--out runs/catalogue] [--markdown docs/evidence/catalogue.md]

FOLDER holds libraries of Sweet Home 3D; `make real` fetches five of them. They are packed into
`data/catalogue`, and two groups of libraries by themselves for the transfer pairs. Each cell is a
run description of `configs/catalogue`, or an ablation of it, trained with one seed in one thread
and kept under --out. Prints tables with 95 % t intervals over the seeds: zero-shot as the line to
beat, all methods for photos, the methods that read the shapes' labels, DAIS-NET between libraries;
then whether each paper's method is above source-only and above its own ablations. A seed makes a
pair of two methods, and a verdict needs an interval of the difference that leaves out zero.
`--validation` takes the queries of split val, on which the descriptions were tuned.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablations import ABLATIONS, PHOTOS, SETTINGS
from cells import Cell, Rows, difference, markdown, run_all

from evalsuite.statistics import seed_half_width

DATA = {
    "data/catalogue": [],
    "data/catalogue-scopia": ["libraries=Scopia", "name=scopia"],
    "data/catalogue-blendswap": ["libraries=BlendSwap-CC-0,BlendSwap-CC-BY", "name=blendswap"],
}
LABELLED = SETTINGS["sketches against shapes"]  # here with photos in the place of sketches
LAST = [f"{method}-last" for method in ("source-only", "astn", "hifa", "ftspl")]
METRICS = ["NN", "FT", "ST", "DCG", "ANMRR", "mAP", "R@1", "R@10", "median_rank", "seconds"]
INTRO = """# Results on real pictures

`python benchmarks/catalogue.py --library FOLDER --markdown docs/evidence/catalogue.md` trains every
cell again. FOLDER holds the five furniture libraries of Debian's package `sweethome3d-furniture`,
which `make real` fetches. They give 389 pairs of a product picture and a mesh in 13 classes: 234
labelled pictures to learn from, 59 on which the descriptions in `configs/catalogue` were tuned, and
96 queries. **All 389 shapes are searched**, and the adapting methods see them without labels in
training: the transductive protocol. The trunk is EfficientNet-Lite0 with ImageNet weights at 128
pixels, frozen unless a table says otherwise.

Class metrics as in [Metrics](../reference/metrics.md), `mi3dor` protocol, last checkpoint, float32;
R@1, R@10 and median_rank look for the exact shape of the picture among all shapes
([metrics of the exact shape](../reference/metrics.md#the-exact-shape)). Mean ± half of the 95 % t
interval over the seeds, which draw the new layers and the batches; the split is the same. Seconds
are those of one thread from the data to the metrics, on a machine that also did other work.
"""


def pair(source: str, target: str) -> list[str]:
    """Overrides: learn from one group of libraries, retrieve in another."""
    return [
        f"data.root=data/catalogue-{target}",
        "data.num_classes=null",
        "data.restrict=true",
        f"data.source_images={{stream: image, split: train, root: data/catalogue-{source}}}",
    ]


def transfer_rows(source: str, target: str) -> dict[str, tuple[str, list[str]]]:
    """Label -> configuration and overrides of one transfer pair, DAIS-NET's ablations included."""
    own = [
        *pair(source, target),
        f"data.source_shapes={{stream: shape, split: train, root: data/catalogue-{source}}}",
    ]
    rows = {
        "zero-shot": ("zero-shot", pair(source, target)),
        "source-only": ("source-only", pair(source, target)),
        "daisnet": ("daisnet", own),
        "daisnet-last": ("daisnet-last", own),
    }
    rows |= {label: ("daisnet", [*own, *more]) for label, more in ABLATIONS["daisnet"].items()}
    return {f"{source} → {target}: {label}": row for label, row in rows.items()}


PAIRS = [("scopia", "blendswap"), ("blendswap", "scopia")]


def known() -> dict[str, tuple[str, list[str]]]:
    """Configuration and overrides of every label."""
    rows: dict[str, tuple[str, list[str]]] = {
        name: (name, []) for name in ["zero-shot", *PHOTOS, *LAST, *LABELLED]
    }
    for full, changes in ABLATIONS.items():
        if full != "daisnet":
            rows |= {label: (full, overrides) for label, overrides in changes.items()}
    for source, target in PAIRS:
        rows |= transfer_rows(source, target)
    return rows


def tables() -> dict[str, list[str]]:
    """Title -> labels, in the order of the page."""
    made = {
        "Photos against shapes, trunk frozen": ["zero-shot", *PHOTOS],
        "Photos against shapes, last stage of the trunk trained too": LAST,
        "Photos against shapes whose labels are read too": LABELLED,
    }
    for source, target in PAIRS:
        made[f"From {source} to {target}"] = list(transfer_rows(source, target))
    for full, changes in ABLATIONS.items():
        if full != "daisnet":
            made[f"Ablations of {full}"] = [full, *changes]
    return made


def verdict(rows: Rows, label: str, other: str) -> str:
    """A sentence: whether `label` is above `other` in FT, as far as the seeds can tell."""
    found = difference(rows, label, other)
    said = {1: "above", -1: "below", 0: "not told apart from"}[found.sign]
    return f"{label} is {said} {other}: FT {found.mean:+.3f} ± {found.half_width:.3f}"


def verdicts(rows: Rows) -> list[str]:
    """Sentences about all labels that the rows hold."""
    compared = [(label, "source-only") for label in ["zero-shot", *PHOTOS[1:]]]
    compared += [(label, "source-only-last") for label in LAST[1:]]
    for full, changes in ABLATIONS.items():
        if full != "daisnet":
            compared += [(full, label) for label in changes]
    compared += [("dca", "dcml"), ("dca", "siamese")]
    for source, target in PAIRS:
        start = f"{source} → {target}: "
        full = f"{start}daisnet"
        others = [row for row in transfer_rows(source, target) if row != full]
        compared += [(full, label) for label in others]
    return [verdict(rows, a, b) for a, b in compared if {a, b} <= {*rows}]


def text(rows: Rows, groups: Mapping[str, Sequence[str]]) -> str:
    """All tables that the rows fill, and the verdicts."""
    parts = []
    for title, labels in groups.items():
        present = [label for label in labels if label in rows]
        if present:
            parts.append(f"### {title}\n\n{markdown(rows, present, METRICS, seed_half_width)}\n")
    return "\n".join([*parts, *(f"- {line}" for line in verdicts(rows))])


def pack(library: Path) -> None:
    """The three packed data sets; what is there is kept."""
    for folder, options in DATA.items():
        command = ["data", "pack", "sh3f", "--root", library, "--out", folder, "--size", "128"]
        given = [part for option in ("val_share=0.15", *options) for part in ("-o", option)]
        if not Path(folder, "manifest.parquet").exists():
            subprocess.run([sys.executable, "-m", "cluster", *command, *given], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--library", type=Path, help="folder of .sh3f files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="labels or configurations; default: all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/catalogue"))
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    if options.library:
        pack(options.library)
    splits = ["data.queries.split=val"] if options.validation else []
    cells = [
        Cell(label, f"catalogue/{config}", (*overrides, *splits), seed)
        for label, (config, overrides) in known().items()
        for seed in range(options.seeds)
        if not options.only or {label, config} & {*options.only}
    ]
    rows = run_all(cells, out=options.out, jobs=options.jobs, level="instance")
    shown = text(rows, tables())
    seconds = sum(row["seconds"] for part in rows.values() for row in part)
    shown += f"\n\n{len(cells)} cells, {seconds / 60:.0f} minutes of one process in all."
    print(shown)
    if options.markdown:
        options.markdown.write_text(f"{INTRO}\n{shown}\n")


if __name__ == "__main__":
    main()
