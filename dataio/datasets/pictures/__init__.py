"""Photo-like pictures and line sketches of a shape: the queries of the built-in benchmark.

May import: dataio.meshes.
"""

from dataio.datasets.pictures.photos import PhotoSpec, photograph
from dataio.datasets.pictures.sketches import SketchSpec, draw_sketch

__all__ = ["PhotoSpec", "SketchSpec", "draw_sketch", "photograph"]
