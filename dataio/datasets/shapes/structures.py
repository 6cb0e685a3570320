"""Stairs, tent."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from dataio.datasets.shapes.assembly import CORNERS, SIDES, Assembly
from dataio.datasets.shapes.primitives import box, extrude, revolve, tube


def stairs(rng: Generator) -> Assembly:
    """4-12 steps: solid, open with stringers, treads with risers, or spiral; railing on 60 %."""
    made = Assembly()
    steps, width = int(rng.integers(4, 13)), rng.uniform(0.8, 1.8)
    rise, run = rng.uniform(0.14, 0.22), rng.uniform(0.22, 0.34)
    style = rng.integers(4)
    if style == 3:
        _spiral(made, rng, steps=steps, width=width, rise=rise, run=run)
        return made
    for k in range(steps):
        y, top = k * run, (k + 1) * rise
        if style == 0:
            made.add(box((0, y, top / 2), (width, run, top)), 0)
        elif style == 1:
            made.add(box((0, y, top), (width, run * 1.1, 0.05)), 0)
        else:
            made.add(box((0, y, top - 0.03), (width, run * 1.05, 0.06)), 0)
            made.add(box((0, y - run / 2, top - rise / 2), (width, 0.02, rise)), 0)
    if style == 1:
        ends = [(0, 0), (run, 0), (steps * run, steps * rise), (steps * run - run, steps * rise)]
        for side in SIDES:
            made.add(extrude(ends, 0.04, center=(side * width * 0.45, 0, 0), axis="x"), 1)
    if rng.random() < 0.6:
        _railings(made, rng, steps=steps, width=width, rise=rise, run=run)
    return made


def _spiral(
    made: Assembly, rng: Generator, *, steps: int, width: float, rise: float, run: float
) -> None:
    turn, radius = np.radians(rng.uniform(18, 24)), width * 0.7
    for k in range(steps):
        at = (np.cos(k * turn) * radius, np.sin(k * turn) * radius, (k + 1) * rise)
        made.add(box(at, (width, run * 1.2, 0.05), yaw=k * turn), 0)
    made.add(tube((0, 0, 0), (0, 0, steps * rise + 0.9), 0.07, sides=10), 1)


def _railings(
    made: Assembly, rng: Generator, *, steps: int, width: float, rise: float, run: float
) -> None:
    sides = SIDES if rng.random() < 0.6 else (1,)
    for side in sides:
        x = side * width * 0.48
        for k in range(0, steps, int(rng.integers(1, 4))):
            foot = (x, k * run, (k + 1) * rise)
            made.add(tube(foot, (x, k * run, foot[2] + 0.85), 0.018, sides=6), 1)
        low, high = (x, 0, rise + 0.85), (x, (steps - 1) * run, steps * rise + 0.85)
        made.add(tube(low, high, 0.03, sides=8), 1)


def tent(rng: Generator) -> Assembly:
    """Ridge, cone, dome, or frame with a canopy; guy lines on half."""
    made = Assembly()
    width, depth = rng.uniform(1.4, 3), rng.uniform(1.6, 3.4)
    height, style = rng.uniform(0.9, 2.2), rng.integers(4)
    oval = (1.0, depth / width)
    if style == 0:
        made.add(extrude([(-width / 2, 0), (width / 2, 0), (0, height)], depth), 0)
        door = [(-width * 0.12, 0), (width * 0.12, 0), (0, height * 0.75)]
        made.add(extrude(door, depth + 0.02), 2)
    elif style == 1:
        cone = [(width * 0.55, 0), (width * 0.5, height * 0.03), (0, height)]
        made.add(revolve(cone, sides=int(rng.integers(5, 10)), scale=oval), 0)
        door = (width * 0.22, depth * 0.25, height * 0.44)
        made.add(box((0, -depth * 0.38, height * 0.22), door, taper=(0.4, 0.2)), 2)
    elif style == 2:
        arc = np.linspace(0, np.pi / 2, 8)
        dome = np.stack([np.cos(arc) * width * 0.55, np.sin(arc) * height], axis=1)
        made.add(revolve(dome, sides=int(rng.choice([4, 6, 20])), scale=oval), 0)
        door = (width * 0.3, depth * 0.3, height * 0.5)
        made.add(box((0, -depth * 0.42, height * 0.25), door, taper=(0.6, 0.3)), 2)
    else:
        _canopy(made, rng, size=(width, depth, height))
    if rng.random() < 0.5:
        for sx, sy in CORNERS:
            high = (sx * width * 0.35, sy * depth * 0.42, height * 0.55)
            made.add(tube(high, (sx * width * 0.85, sy * depth * 0.62, 0), 0.01, sides=4), 1)
    return made


def _canopy(made: Assembly, rng: Generator, *, size: tuple[float, float, float]) -> None:
    width, depth, height = size
    eaves = height * rng.uniform(0.5, 0.7)
    if rng.random() < 0.5:
        for sx, sy in CORNERS:
            x, y = sx * width / 2, sy * depth / 2
            made.add(tube((x, y, 0), (x, y, eaves), 0.03, sides=6), 1)
    else:
        made.add(box((0, 0, eaves / 2), (width, depth, eaves)), 0)
        made.add(box((0, -depth / 2, eaves * 0.42), (width * 0.3, 0.03, eaves * 0.84)), 2)
    if rng.random() < 0.6:
        roof = revolve([(width * 0.76, eaves), (0, height * 1.25)], sides=4)
        # A four-sided cone has its corners on the axes; a quarter turn puts them over the posts.
        x, y, z = roof.vertices.T
        turned = np.stack([(x - y) * 0.7071, (x + y) * 0.7071 * depth / width, z], axis=1)
        made.add(roof._replace(vertices=turned), 0)
    else:
        gable = [(-width * 0.56, eaves), (width * 0.56, eaves), (0, height * 1.2)]
        made.add(extrude(gable, depth * 1.05), 0)
