"""The 21 categories by name."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import trimesh
from numpy.random import Generator

from dataio.datasets.shapes import (
    devices,
    instruments,
    seating,
    storage,
    structures,
    vehicles,
    vessels,
)
from dataio.datasets.shapes.assembly import Assembly

Builder = Callable[[Generator], Assembly]

CATEGORIES: MappingProxyType[str, Builder] = MappingProxyType(
    {
        "airplane": vehicles.airplane,
        "bed": seating.bed,
        "bookshelf": storage.bookshelf,
        "bottle": vessels.bottle,
        "car": vehicles.car,
        "chair": seating.chair,
        "cup": vessels.cup,
        "guitar": instruments.guitar,
        "keyboard": devices.keyboard,
        "lamp": devices.lamp,
        "laptop": devices.laptop,
        "monitor": devices.monitor,
        "piano": instruments.piano,
        "plant": vessels.plant,
        "sofa": seating.sofa,
        "stairs": structures.stairs,
        "stool": seating.stool,
        "table": storage.table,
        "tent": structures.tent,
        "vase": vessels.vase,
        "wardrobe": storage.wardrobe,
    }
)
CLASS_NAMES: tuple[str, ...] = tuple(sorted(CATEGORIES))


def build(category: str, rng: Generator) -> trimesh.Trimesh:
    """A new instance of `category`, drawn from `rng`, in the unit sphere, Z up, front to -Y.

    `mesh.face_attributes["part"]` holds the part id of each face, int64 [F].
    """
    return CATEGORIES[category](rng).to_mesh(rng)
