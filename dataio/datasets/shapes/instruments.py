"""Guitar, piano."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from dataio.datasets.shapes.assembly import SIDES, Assembly
from dataio.datasets.shapes.primitives import Solid, box, extrude, tube


def guitar(rng: Generator) -> Assembly:
    """Waisted body standing upright, neck, head with six pegs, bridge; sound hole on 60 %."""
    made = Assembly()
    length = rng.uniform(0.9, 1.1)
    body = length * rng.uniform(0.4, 0.5)
    lower = body * rng.uniform(0.6, 0.85)
    upper, thick = lower * rng.uniform(0.6, 0.85), rng.uniform(0.04, 0.12)
    waist = rng.uniform(0.5, 0.8)
    made.add(extrude(_guitar_outline(body, lower, upper, waist), thick), 0)
    front = -thick / 2 - 0.006
    neck_low, neck_high = body * 0.85, length * 0.9
    neck = (0.055, 0.02, neck_high - body * 0.7)
    made.add(box((0, front, (neck_low + neck_high) / 2), neck), 1)
    head = (0.08, 0.02, 0.14)
    made.add(box((0, 0, length * 0.95), head, taper=(rng.uniform(0.8, 1.3), 1)), 1)
    for peg in range(3):
        z = length * 0.91 + peg * 0.035
        for side in SIDES:
            made.add(tube((side * 0.04, 0, z), (side * 0.075, 0, z), 0.008, sides=6), 2)
    if rng.random() < 0.6:
        z = body * 0.6
        made.add(tube((0, front + 0.002, z), (0, -thick / 2, z), 0.045, sides=14), 2)
    made.add(box((0, front, body * 0.25), (0.14, 0.012, 0.03)), 1)
    return made


def _guitar_outline(body: float, lower: float, upper: float, waist: float) -> np.ndarray:
    """Polygon [P, 2] of two bouts, as wide as `lower` and `upper`, joined at a waist."""
    level = np.linspace(0, 1, 16)
    ratio = upper / lower
    lower_bout = np.exp(-(((level - 0.28) / 0.28) ** 2))
    upper_bout = np.exp(-(((level - 0.8) / 0.2) ** 2)) * ratio
    between = np.where((level > 0.3) & (level < 0.8), waist * ratio * 0.9, 0)
    ends = np.sqrt(np.clip(1 - (2 * level - 1) ** 8, 0, None))
    half = np.maximum(np.maximum(lower_bout, upper_bout), between) * ends * lower / 2
    right = np.stack([half, level * body], axis=1)
    left = right[-2:0:-1] * (-1, 1)  # the two end points lie on the axis and are shared
    return np.vstack([right, left])


def piano(rng: Generator) -> Assembly:
    """Upright (55 %) or grand with a curved side, lid open on 60 %; bench on 35 %."""
    made = Assembly()
    width = rng.uniform(1.3, 1.6)
    if rng.random() < 0.55:
        _upright(made, rng, width)
    else:
        _grand(made, rng, width)
    if rng.random() < 0.35:
        made.add(box((0, -0.85, 0.45), (0.6, 0.32, 0.08)), 2)
        for x in (-0.26, 0.26):
            made.add(box((x, -0.85, 0.2), (0.05, 0.28, 0.42)), 2)
    return made


def _upright(made: Assembly, rng: Generator, width: float) -> None:
    height, depth = rng.uniform(0.95, 1.35), rng.uniform(0.35, 0.5)
    front = -depth / 2
    made.add(box((0, 0.1, height / 2), (width, depth, height)), 0)
    made.add(box((0, front - 0.06, 0.66), (width, 0.36, 0.08)), 0)
    made.add(box((0, front - 0.09, 0.715), (width * 0.92, 0.16, 0.03)), 1)
    for side in SIDES:
        made.add(box((side * width * 0.47, front - 0.12, 0.33), (0.07, 0.07, 0.66)), 0)
    made.add(box((0, 0.1, height + 0.02), (width * 1.03, depth * 1.08, 0.04)), 0)


def _grand(made: Assembly, rng: Generator, width: float) -> None:
    length = rng.uniform(1.4, 2.3)
    half = width / 2
    bend = np.linspace(0, np.pi / 2, 7)
    curve = np.stack(
        [half - width * 0.62 * (1 - np.cos(bend)), 0.15 + (length - 0.75) * np.sin(bend)], axis=1
    )
    outline = np.vstack([[(-half, -0.4), (half, -0.4)], curve, [(-half, length - 0.6)]])
    made.add(extrude(outline, 0.3, center=(0, 0, 0.85), axis="z"), 0)
    made.add(box((0, -0.48, 0.78), (width * 0.93, 0.2, 0.1)), 1)
    for x, y in ((-width * 0.42, -0.25), (width * 0.42, -0.25), (-width * 0.2, length - 0.85)):
        made.add(tube((x, y, 0), (x, y, 0.72), 0.05, 0.07, sides=8), 0)
    if rng.random() < 0.6:
        angle = np.radians(rng.uniform(25, 50))
        lid = extrude(outline, 0.03, axis="z")
        x, y, z = lid.vertices.T
        from_hinge = x + half
        raised = [from_hinge * np.cos(angle) - half, y, 1.02 + from_hinge * np.sin(angle) + z]
        made.add(Solid(np.stack(raised, axis=1), lid.faces), 0)
