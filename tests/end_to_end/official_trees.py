"""Small trees in the official layouts of the papers' data sets, with real pictures and meshes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dataio.datasets.published import MODELNET40_CLASSES

CLASSES = ("bed", "chair", "sofa", "table")
SYNSETS = {"bed": "02818832", "chair": "03001627", "sofa": "04256520", "table": "04379243"}
WNIDS = {"bed": "n03388549", "chair": "n02791124", "sofa": "n04344873", "table": "n03201208"}
SHREC = {"sofa": "couch"}  # names of classes in SHREC where they differ
TRAIN, TEST, SHAPES, VIEWS = 4, 2, 3, 12


def picture(file: Path, seed: int) -> None:
    """A class's colour and noise: 64×64 pixels."""
    random = np.random.default_rng(seed)
    colour = np.array([(seed * 53) % 256, (seed * 97) % 256, (seed * 151) % 256])
    pixels = np.clip(colour + random.normal(0, 40, (64, 64, 3)), 0, 255).astype(np.uint8)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file)


def _box(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners ``[8, 3]`` and triangles ``[12, 3]`` of a box whose sides depend on the class."""
    sides = np.array([1.0, 0.3 + 0.25 * (seed % 4), 0.5 + 0.1 * (seed % 3)])
    corners = np.array(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij")).reshape(3, 8).T * sides
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return corners, np.array([t for a, b, c, d in quads for t in ((a, b, c), (a, c, d))])


def off(file: Path, seed: int) -> None:
    """A box as Object File Format."""
    corners, triangles = _box(seed)
    lines = ["OFF", f"{len(corners)} {len(triangles)} 0"]
    lines += [" ".join(f"{x:g}" for x in corner) for corner in corners]
    lines += [" ".join(map(str, (3, *triangle))) for triangle in triangles]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def obj(file: Path, seed: int) -> None:
    """A box as Wavefront OBJ."""
    corners, triangles = _box(seed)
    lines = [f"v {x:g} {y:g} {z:g}" for x, y, z in corners]
    lines += [f"f {a} {b} {c}" for a, b, c in triangles + 1]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")


def mi3dor(root: Path) -> None:
    for split, count in (("train", TRAIN), ("test", TEST)):
        for number, label in enumerate(CLASSES):
            for k in range(count):
                picture(root / "image" / split / label / f"n{split}{k}.JPEG", number)
            for k in range(SHAPES):
                shape = f"{label}_{split}_{k:04d}"
                for view in range(1, VIEWS + 1):
                    file = root / "view" / split / label / shape / f"{shape}_{view:03d}.png"
                    picture(file, number)


def mi3dor_2(root: Path) -> None:
    for split, count in (("train", TRAIN), ("test", TEST)):
        images, views = [], []
        for number, label in enumerate(CLASSES):
            images += [(f"{label}/n{split}{k}.JPEG", label) for k in range(count)]
            views += [
                (f"{label}/{label}_{k:04d}_{view:03d}.jpg", label)
                for k in range(SHAPES)
                for view in range(1, VIEWS + 1)
            ]
            for folder, names in (("2D", images), ("3D", views)):
                for name, own in names:
                    if own == label:
                        picture(root / split / folder / name, number)
        for kind, names in (("Image", images), ("View", views)):
            lines = [f"{name} {MODELNET40_CLASSES.index(label)}" for name, label in names]
            (root / split / f"MI3DOR_2_{kind}_{split}_list.txt").write_text("\n".join(lines))


def _cla(file: Path, ids: dict[str, list[str]]) -> None:
    lines = ["PSB 1", f"{len(ids)} {sum(map(len, ids.values()))}", ""]
    for name, own in ids.items():
        lines += [f"{name} 0 {len(own)}", *own, ""]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines))


def _shrec(
    root: Path, *, sketch: Callable[[str, str, int], Path], mesh: str, form: str, cla: str
) -> None:
    ids, next_id = {}, 1
    for number, label in enumerate(CLASSES):
        name = SHREC.get(label, label)
        for k in range(TRAIN + TEST):
            split = "train" if k < TRAIN else "test"
            picture(root / sketch(name, split, 10 * number + k), number)
        ids[name] = [form.format(next_id + k) for k in range(SHAPES)]
        for one in ids[name]:
            off(root / mesh.format(one), number)
        next_id += SHAPES
    _cla(root / cla, ids)


def shrec13(root: Path) -> None:
    folders = {
        "train": "SHREC13_SBR_TRAINING_SKETCHES/SHREC13_SBR_TRAINING_SKETCHES",
        "test": "SHREC13_SBR_TESTING_SKETCHES",
    }
    _shrec(
        root,
        sketch=lambda label, split, k: Path(folders[split], label, split, f"{k}.png"),
        mesh="SHREC13_SBR_TARGET_MODELS/models/m{}.off",
        form="{}",
        cla="SHREC2013_Sketch_Evaluation/SHREC13_SBR_Model.cla",
    )


def shrec14(root: Path) -> None:
    _shrec(
        root,
        sketch=lambda label, split, k: Path("SHREC14LSSTB_SKETCHES", label, split, f"{k}.png"),
        mesh="SHREC14LSSTB_TARGET_MODELS/M{}.off",
        form="{:06d}",
        cla="SHREC14_Sketch_Evaluation/SHREC14_SBR_Model.cla",
    )


def pix3d(root: Path) -> None:
    rows = []
    for number, label in enumerate(CLASSES):
        for k in range(TRAIN + TEST):
            row = {
                "img": f"img/{label}/{k:04d}.png",
                "category": label,
                "img_size": [64, 64],
                "mask": f"mask/{label}/{k:04d}.png",
                "model": f"model/{label}/SHAPE_{k % SHAPES}/model.obj",
                "truncated": False,
                "occluded": False,
                "slightly_occluded": False,
                "bbox": [4, 4, 60, 60],
            }
            picture(root / row["img"], number)
            mask = root / row["mask"]
            mask.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (64, 64), 255).save(mask)
            obj(root / row["model"], number)
            rows.append(row)
    (root / "pix3d.json").write_text(json.dumps(rows))


def shapenet_v2(root: Path) -> None:
    for number, label in enumerate(CLASSES):
        for k in range(SHAPES):
            obj(root / SYNSETS[label] / f"{k}a" / "models/model_normalized.obj", number)


def imagenet(root: Path) -> None:
    for number, label in enumerate(CLASSES):
        for k in range(TRAIN + TEST):
            picture(root / "train" / WNIDS[label] / f"{WNIDS[label]}_{k}.JPEG", number)


TREES: dict[str, Callable[[Path], None]] = {
    "mi3dor": mi3dor,
    "mi3dor-2": mi3dor_2,
    "shrec13": shrec13,
    "shrec14": shrec14,
    "pix3d": pix3d,
    "shapenet-v2": shapenet_v2,
    "imagenet": imagenet,
}
