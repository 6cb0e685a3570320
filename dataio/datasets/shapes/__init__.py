"""Parametric furniture, vessels, vehicles and more: the shapes of the built-in benchmark.

May import: nothing of this project.
"""

from dataio.datasets.shapes.categories import CLASS_NAMES, build

__all__ = ["CLASS_NAMES", "build"]
