"""Small trees in MI3DOR's layout, of empty files: its adapter opens no picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def touch(root: Path, *names: str) -> None:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def add_shape(root: Path, split: str, label: str, number: int, views: int = 12) -> Path:
    shape = f"{label}_{split}_{number:04d}"
    folder = root / "view" / split / label / shape
    touch(folder, *(f"{shape}_{k:03d}.png" for k in range(1, views + 1)))
    return folder


def make_tree(
    root: Path, classes: Iterable[str] = ("bed", "flower_pot"), *, shapes: int = 2
) -> Path:
    """Three images and `shapes` shapes of every class in train and test, and one mesh."""
    for split in ("train", "test"):
        for label in classes:
            touch(root, *(f"image/{split}/{label}/n0{k}.JPEG" for k in range(3)))
            for number in range(1, shapes + 1):
                add_shape(root, split, label, number)
    touch(root, "model/test/bed/bed_test_0001.obj")
    return root
