"""One instance of the built-in benchmark, from its seed to its files.

The tree is MI3DOR's own, so the benchmark is read by the same adapter:

    image/<split>/<class>/<class>_<split>_photo_<NNNN>.jpg
    sketch/<split>/<class>/<class>_<split>_sketch_<NNNN>.png
    view/<split>/<class>/<class>_<split>_<NNNN>/<class>_<split>_<NNNN>_<VVV>.png
    model/<split>/<class>/<class>_<split>_<NNNN>.obj
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from dataio.atomic import write_whole
from dataio.datasets.pictures import PhotoSpec, SketchSpec, draw_sketch, photograph
from dataio.datasets.shapes import CLASS_NAMES, build
from dataio.meshes import RenderSpec, Scene, preset, render_scene
from dataio.records import SPLITS, STREAMS

VIEWS: RenderSpec = preset("mvcnn_v1", size=64)
# A second domain of shapes: other stations of the ring, lit from the upper left, on black.
STYLES: dict[str, RenderSpec] = {
    "a": VIEWS,
    "b": RenderSpec(
        name="procedural_b",
        size=64,
        first_azimuth_degrees=15.0,
        fov_degrees=8.0,
        margin=0.06,
        max_area=1.0,
        ambient=0.12,
        diffuse=0.8,
        light=(-0.5, 0.6, 0.6),
        ground=0.0,
    ),
}
PHOTO = PhotoSpec()
SKETCH = SketchSpec()

_JPEG_QUALITY = 94
_GOLDEN_RATIO = 0.618034  # neighbours in the class list get hues far apart


@dataclass(frozen=True)
class Instance:
    """Which shape, and what is made of it. `number` starts at 1; `style` is one of STYLES."""

    stream: str
    split: str
    category: str
    number: int
    seed: int = 0
    style: str = "a"

    @property
    def name(self) -> str:
        kind = {"image": "photo_", "sketch": "sketch_", "shape": ""}[self.stream]
        return f"{self.category}_{self.split}_{kind}{self.number:04d}"

    def files(self, root: Path) -> list[Path]:
        """Every file of this instance; for a shape the 12 views in ring order, then the model."""
        inside = Path(self.split) / self.category
        if self.stream == "image":
            return [root / "image" / inside / f"{self.name}.jpg"]
        if self.stream == "sketch":
            return [root / "sketch" / inside / f"{self.name}.png"]
        folder = root / "view" / inside / self.name
        views = [folder / f"{self.name}_{k:03d}.png" for k in range(1, VIEWS.views + 1)]
        return [*views, root / "model" / inside / f"{self.name}.obj"]

    def random(self) -> Generator:
        """Its own random numbers: no two (style, stream, split, number) of a class share an
        instance.
        """
        group = list(STYLES).index(self.style) * len(STREAMS) + STREAMS.index(self.stream)
        domain = group * len(SPLITS) + SPLITS.index(self.split)
        class_index = CLASS_NAMES.index(self.category)
        return np.random.default_rng([self.seed, class_index, domain, self.number])


def make_mesh(instance: Instance) -> tuple[trimesh.Trimesh, Generator]:
    """The instance's mesh, and its random numbers where the mesh left them."""
    rng = instance.random()
    return build(instance.category, rng), rng


def is_written(instance: Instance, root: Path) -> bool:
    """Whether every file of the instance is there and not empty."""
    return all(is_filled(file) for file in instance.files(root))


def write_instance(instance: Instance, root: Path) -> None:
    """Build the instance and write all its files; same instance, same bytes."""
    mesh, rng = make_mesh(instance)
    scene = Scene(np.asarray(mesh.vertices), np.asarray(mesh.faces))
    files = instance.files(root)
    if instance.stream == "image":
        hue = CLASS_NAMES.index(instance.category) * _GOLDEN_RATIO % 1
        parts = np.asarray(mesh.face_attributes["part"])
        pixels = photograph(scene, parts, rng, hue=hue, spec=PHOTO)
        contents = [_encoded(pixels, "JPEG")]
    elif instance.stream == "sketch":
        contents = [_encoded(draw_sketch(scene, rng, spec=SKETCH), "PNG")]
    else:
        views = render_scene(scene, STYLES[instance.style], name=instance.name)
        contents = [*(_encoded(view, "PNG") for view in views), _obj(mesh)]
    for file, content in zip(files, contents, strict=True):
        write_file(file, content)


def is_filled(file: Path) -> bool:
    """Whether the file is there and not empty."""
    try:
        return file.stat().st_size > 0
    except FileNotFoundError:
        return False


def _encoded(pixels: NDArray[np.uint8], kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "JPEG":
        Image.fromarray(pixels).save(buffer, kind, quality=_JPEG_QUALITY, subsampling=0)
    else:
        Image.fromarray(pixels).save(buffer, kind, compress_level=6)
    return buffer.getvalue()


def _obj(mesh: trimesh.Trimesh) -> bytes:
    """Wavefront OBJ, one group a part."""
    lines = [f"v {x:.5f} {y:.5f} {z:.5f}" for x, y, z in np.asarray(mesh.vertices).tolist()]
    parts = np.asarray(mesh.face_attributes["part"])
    for part in np.unique(parts):
        lines.append(f"g part_{part}")
        corners = np.asarray(mesh.faces)[parts == part] + 1
        lines += [f"f {a} {b} {c}" for a, b, c in corners.tolist()]
    return ("\n".join(lines) + "\n").encode("ascii")


def write_file(file: Path, content: bytes) -> None:
    """Write one of tens of thousands of files; what a power failure takes is made again."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, content, durable=False)
