"""Run folders as training and evaluation leave them, with made-up but plausible content."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from evalsuite.vectors.embeddings import Embeddings
from tests.evalsuite.embedding_folders import write_parts

CLASSES = ("airplane", "bed", "car", "chair", "guitar", "lamp", "monitor", "vase")
METHODS = {
    # name: (distance between the domains, spread inside a class)
    "source-only": (3.0, 1.2),
    "dann": (1.4, 1.05),
    "astn": (0.45, 0.8),
}
WIDTH = 24


def write_runs(root: Path, *, queries: int = 20, shapes: int = 15, steps: int = 60) -> list[Path]:
    """Three folders: without adaptation, and two methods of growing strength."""
    return [
        write_run(root / name, name, queries=queries, shapes=shapes, steps=steps)
        for name in METHODS
    ]


def write_run(
    folder: Path,
    method: str,
    *,
    classes: Sequence[str] = CLASSES,
    queries: int = 20,
    shapes: int = 15,
    steps: int = 60,
) -> Path:
    """One folder; `queries` and `shapes` count items a class."""
    for part in ("embeddings", "evaluation"):
        (folder / part).mkdir(parents=True)
    gap, spread = METHODS[method]
    sides = {}
    for stage, far, wide in (("initial-", 5.0, 1.8), ("", gap, spread)):
        sides[stage] = _sides(classes, (queries, shapes), gap=far, spread=wide)
        for side, embeddings in sides[stage].items():
            write_parts(folder / "embeddings" / f"{stage}{side}", embeddings)
    (folder / "run.json").write_text(json.dumps(_info(method, steps)))
    (folder / "config.yaml").write_text(_CONFIG.format(method=method, weight=gap))
    _write_log(folder / "log.jsonl", method, steps)
    _write_evaluation(folder / "evaluation", **sides[""])
    return folder


def pictures(keys: Sequence[str]) -> Mapping[str, bytes]:
    """Photos with a gradient behind the object; shapes as twelve grey views, stacked."""
    return {key: _photo(key) if key.startswith("photo") else _views(key) for key in keys}


def _sides(
    classes: Sequence[str], counts: tuple[int, int], *, gap: float, spread: float
) -> dict[str, Embeddings]:
    random = np.random.default_rng(7)
    centres = random.normal(size=(len(classes), WIDTH)) * 0.9
    offset = random.normal(size=WIDTH)
    offset *= gap / np.linalg.norm(offset)
    # Some classes are harder than others.
    widths = spread * np.linspace(0.7, 1.35, len(classes))[:, None, None]
    sides = {}
    for side, kind, count, sign in (
        ("queries", "photo", counts[0], 0.5),
        ("gallery", "shape", counts[1], -0.5),
    ):
        noise = random.normal(size=(len(classes), count, WIDTH)) * widths
        vectors = (centres[:, None] + sign * offset + noise).reshape(-1, WIDTH)
        rows = [(index, item) for index in range(len(classes)) for item in range(count)]
        keys = [f"{kind}-{index}-{item:03d}" for index, item in rows]
        sides[side] = Embeddings(keys, [classes[index] for index, _ in rows], vectors)
    return sides


def _write_evaluation(folder: Path, *, queries: Embeddings, gallery: Embeddings) -> None:
    """Measures from a plain sort; close to the evaluator's, which is tested elsewhere."""
    distance = np.linalg.norm(queries.vectors[:, None] - gallery.vectors[None], axis=2)
    order = np.argsort(distance, axis=1, kind="stable")
    truth = np.asarray(queries.labels)[:, None]
    relevant = np.asarray(gallery.labels)[order] == truth
    total = relevant.sum(axis=1)
    ranks = np.arange(1, relevant.shape[1] + 1)
    discount = 1 / np.log2(ranks + 1)
    first = relevant & (ranks <= total[:, None])
    hits = np.cumsum(relevant, axis=1)
    columns = {
        "NN": relevant[:, 0].astype(float),
        "FT": first.sum(axis=1) / total,
        "ST": (relevant & (ranks <= 2 * total[:, None] - 1)).sum(axis=1) / total,
        "E": 2 * hits[:, :32][:, -1] / (min(32, len(ranks)) + total),
        "DCG": (first * discount).sum(axis=1) / discount[: total[0]].sum(),
        "ANMRR": 1 - first.sum(axis=1) / total * 0.95,
        "AP": (hits / ranks * relevant).sum(axis=1) / total,
    }
    table = {"key": queries.keys, "label": queries.labels, "n_relevant": total, **columns}
    pq.write_table(pa.table(table), folder / "per_query.parquet")
    recall, precision = hits.sum(axis=0) / total.sum(), hits.sum(axis=0) / (len(total) * ranks)
    metrics = {name: float(values.mean()) for name, values in columns.items() if name != "AP"}
    metrics |= {
        "mAP": float(columns["AP"].mean()),
        "F": float(2 * hits[:, 19].sum() / (20 * len(total) + total.sum())),
        "AUC": float(np.trapezoid(precision, recall)),
        "variants": {"DCG_trunc_rank2": metrics["DCG"] * 0.98, "F_query_mean": 0.4},
        "n_queries": len(total),
        "n_evaluated": len(total),
        "n_missing": 0,
        "n_gallery": len(gallery.keys),
        "protocol": "mi3dor",
        "features": "raw",
        "metric": "euclidean",
        "ties": "index",
        "pr_recall": recall.tolist(),
        "pr_precision": precision.tolist(),
        "per_class": [],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))


def _write_log(path: Path, method: str, steps: int) -> None:
    random = np.random.default_rng(sum(map(ord, method)))
    lines = []
    for index in range(steps):
        progress = (index + 1) / steps
        noise = random.normal(size=6) * 0.05
        terms = {"classification": 1.9 * np.exp(-4 * progress) + 0.1 + abs(noise[0])}
        health = {"gradient_norm": 2 / (1 + 4 * progress) + abs(noise[1]) * 4}
        if method != "source-only":
            terms["adversarial"] = 0.69 - 0.2 * (1 - progress) + noise[2] * 0.6
            health["domain_accuracy"] = 0.5 + 0.45 * (1 - progress) + noise[3] * 0.5
        if method == "astn":
            terms["centre_alignment"] = 0.8 * np.exp(-2 * progress) + abs(noise[4])
            health["centre_drift"] = 0.3 * np.exp(-5 * progress) + abs(noise[5]) * 0.2
            health["pseudo_label_coverage"] = progress**0.6 * 0.9
        record = {
            "step": 10 * index,
            "progress": progress,
            "learning_rate": 0.01 / (1 + 10 * progress) ** 0.75 * (0.5 if method == "astn" else 1),
            "loss": sum(terms.values()),
            "terms": terms,
            "health": health,
            "seconds": 0.31 + abs(noise[0]),
        }
        lines.append(json.dumps(record))
    path.write_text("\n".join(lines) + "\n")


def _info(method: str, steps: int) -> dict:
    return {
        "name": method,
        "method": method.replace("-", "_"),
        "dataset": "MI3DOR-2, photos to shapes",
        "seed": 0,
        "world_size": 4,
        "steps": steps * 10,
        "status": "finished",
        "parameters": 11_176_512,
        "versions": {"img2shape": "0.1.0", "torch": "2.13.0", "ray": "2.55.1"},
        "timings": {"train": 1874.0 if method == "astn" else 1322.5, "extract": 61.4, "score": 3.2},
        "data": {"root": "shards/mi3dor-2", "fingerprint": "9f31c2a07be48d5560c1f5"},
    }


_CONFIG = """\
method:
  name: {method}
  alignment_weight: {weight}
backbone: resnet18
batch: 64
optimiser:
  learning_rate: 0.01
  momentum: 0.9
seed: 0
"""


_OUTLINES: tuple[tuple[tuple[str, tuple[float, ...]], ...], ...] = (
    (("polygon", (0, -1, 1, 1, 0, 0.4, -1, 1)),),
    (("rectangle", (-1, -0.3, 1, 0.5)), ("rectangle", (-1, -1, -0.7, 1))),
    (
        ("rectangle", (-1, -0.4, 1, 0.4)),
        ("ellipse", (-0.75, 0.1, -0.25, 0.7)),
        ("ellipse", (0.25, 0.1, 0.75, 0.7)),
    ),
    (
        ("rectangle", (-1, -1, -0.6, 1)),
        ("rectangle", (-1, 0, 1, 0.3)),
        ("rectangle", (0.7, 0, 1, 1)),
    ),
    (("ellipse", (-0.9, 0, 0.9, 1.1)), ("rectangle", (-0.12, -1.2, 0.12, 0.2))),
    (
        ("polygon", (-0.5, -1, 0.5, -1, 1, 0, -1, 0)),
        ("rectangle", (-0.08, 0, 0.08, 1)),
        ("rectangle", (-0.7, 0.85, 0.7, 1)),
    ),
    (
        ("rectangle", (-1, -1, 1, 0.4)),
        ("rectangle", (-0.15, 0.4, 0.15, 1)),
        ("rectangle", (-0.6, 0.85, 0.6, 1)),
    ),
    (("ellipse", (-1, -0.4, 1, 1)), ("rectangle", (-0.35, -1, 0.35, 0))),
)
"""A figure a class, in units of its half width and half height."""


def _silhouette(picture: Image.Image, kind: int, *, turn: float, fill: object) -> None:
    draw, half = ImageDraw.Draw(picture), picture.width / 2
    scale = np.array([0.68 * half * (0.45 + 0.55 * abs(np.cos(turn))), 0.62 * half])
    for form, corners in _OUTLINES[kind % len(_OUTLINES)]:
        points = np.array(corners).reshape(-1, 2) * scale + half
        getattr(draw, form)([tuple(point) for point in points], fill=fill)


def _photo(key: str, side: int = 160) -> bytes:
    _, kind, item = key.split("-")
    random = np.random.default_rng([3, int(kind), int(item)])
    ramp = np.linspace(0, 1, side)[:, None, None]
    sky, ground = random.uniform(120, 245, size=(2, 3))
    grain = random.normal(size=(side, side, 1)) * 5
    pixels = np.clip(sky * (1 - ramp) + ground * ramp + grain, 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    fill = tuple(int(value) for value in random.uniform(10, 120, size=3))
    _silhouette(picture, int(kind), turn=random.uniform(0, 1), fill=fill)
    return _encoded(picture, "JPEG")


def _views(key: str, side: int = 96) -> bytes:
    _, kind, item = key.split("-")
    random = np.random.default_rng([5, int(kind), int(item)])
    shade, start = int(random.uniform(70, 170)), random.uniform(0, 0.9)
    stack = Image.new("L", (side, 12 * side), 255)
    for view in range(12):
        tile = Image.new("L", (side, side), 255)
        turn = start + view * np.pi / 6
        _silhouette(tile, int(kind), turn=turn, fill=shade)
        stack.paste(tile, (0, view * side))
    return _encoded(stack, "PNG")


def _encoded(picture: Image.Image, kind: str) -> bytes:
    written = io.BytesIO()
    picture.save(written, format=kind)
    return written.getvalue()
