"""Keyboard, laptop, monitor, lamp."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from dataio.datasets.shapes.assembly import SIDES, Assembly
from dataio.datasets.shapes.primitives import Solid, box, revolve, tube


def keyboard(rng: Generator) -> Assembly:
    """Slab, 4-6 rows of 10-15 keys with a space bar, wrist rest on 30 %."""
    made = Assembly()
    width = rng.uniform(0.28, 0.48)
    depth, slab = width * rng.uniform(0.28, 0.45), rng.uniform(0.012, 0.035)
    rows, columns = int(rng.integers(4, 7)), int(rng.integers(10, 16))
    made.add(box((0, 0, slab / 2), (width, depth, slab)), 0)
    pitch_x, pitch_y = width * 0.92 / columns, depth * 0.84 / rows
    key = (pitch_x * 0.8, pitch_y * 0.78, 0.012)
    for row in range(rows):
        y = -depth * 0.42 + pitch_y * (row + 0.5)
        for column in range(columns):
            if row == 0 and 3 < column < columns - 4:
                continue  # the space bar lies here
            x = -width * 0.46 + pitch_x * (column + 0.5)
            made.add(box((x, y, slab + 0.005), key, taper=(0.85, 0.85)), 1)
    space = (0, -depth * 0.42 + pitch_y / 2, slab + 0.005)
    made.add(box(space, (width * 0.3, pitch_y * 0.78, 0.012)), 1)
    if rng.random() < 0.3:
        made.add(box((0, -depth * 0.62, slab * 0.3), (width, depth * 0.25, slab * 0.6)), 0)
    return made


def laptop(rng: Generator) -> Assembly:
    """Base with key rows and touch pad, lid opened by 92-135 degrees."""
    made = Assembly()
    width = rng.uniform(0.28, 0.42)
    depth, thick = width * rng.uniform(0.6, 0.75), rng.uniform(0.012, 0.03)
    opened = np.radians(rng.uniform(92, 135))
    lid = depth * rng.uniform(0.92, 1)
    made.add(box((0, 0, thick / 2), (width, depth, thick)), 0)
    rows = int(rng.integers(4, 6))
    for row in range(rows):
        y = depth * (0.38 - 0.5 * row / rows)
        made.add(box((0, y, thick + 0.002), (width * 0.88, depth * 0.075, 0.006)), 2)
    made.add(box((0, -depth * 0.33, thick + 0.001), (width * 0.3, depth * 0.2, 0.003)), 1)
    hinge = np.array([0, depth / 2, thick])
    shell = box((0, lid / 2, 0), (width, lid, 0.012))
    screen = box((0, lid / 2, 0.008), (width * 0.92, lid * 0.86, 0.004))
    made.add(_turned_about_x(shell, np.pi - opened, hinge), 0)
    made.add(_turned_about_x(screen, np.pi - opened, hinge), 3)
    return made


def _turned_about_x(solid: Solid, angle: float, origin: np.ndarray) -> Solid:
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]])
    return Solid(solid.vertices @ turn + origin, solid.faces)


def monitor(rng: Generator) -> Assembly:
    """Frame and screen, flat or tube (20 %), on a foot, a round foot or splayed struts."""
    made = Assembly()
    width = rng.uniform(0.4, 0.85)
    height, thick = width * rng.uniform(0.5, 0.8), rng.uniform(0.02, 0.08)
    stand = rng.uniform(0.06, 0.2)
    if rng.random() < 0.2:
        thick = rng.uniform(0.2, 0.4)
    middle = stand + height / 2
    made.add(box((0, 0, middle), (width, 0.04, height)), 0)
    made.add(box((0, -0.022, middle), (width * 0.93, 0.01, height * 0.9)), 2)
    if thick > 0.04:
        housing = (width * 0.7, thick, height * 0.7)
        made.add(box((0, 0.02 + thick / 2, middle), housing, taper=(0.9, 1)), 0)
    style = rng.integers(3)
    if style == 0:
        made.add(box((0, 0.03, stand / 2), (0.06, 0.04, stand + 0.1)), 1)
        made.add(box((0, 0, 0.01), (width * rng.uniform(0.35, 0.6), 0.2, 0.02)), 1)
    elif style == 1:
        made.add(tube((0, 0.03, 0), (0, 0.03, stand + 0.1), 0.025), 1)
        made.add(revolve([(0, 0), (0.14, 0), (0.12, 0.02), (0, 0.03)]), 1)
    else:
        for side in SIDES:
            head = (side * width * 0.2, 0.02, stand + 0.02)
            for y in (-0.1, 0.12):
                made.add(tube((side * width * 0.35, y, 0), head, 0.012, sides=6), 1)
    return made


def lamp(rng: Generator) -> Assembly:
    """Floor (45 %) or table lamp with a plain rod, a bulbous body or a jointed arm."""
    made = Assembly()
    is_floor = rng.random() < 0.45
    height = rng.uniform(1.1, 1.7) if is_floor else rng.uniform(0.3, 0.6)
    radius = height * (rng.uniform(0.1, 0.16) if is_floor else rng.uniform(0.2, 0.36))
    made.add(
        revolve([(0, 0), (radius * 0.8, 0), (radius * 0.75, 0.02), (0.03, 0.05), (0, 0.05)]), 1
    )
    style = rng.integers(3)
    if style == 2:
        _jointed_arm(made, rng, height=height, radius=radius)
        return made
    if style == 1 and not is_floor:
        widest, upper = radius * rng.uniform(0.3, 0.7), radius * rng.uniform(0.2, 0.6)
        body = [(0.02, 0.05), (widest, height * 0.25), (upper, height * 0.4), (0.02, height * 0.7)]
        made.add(revolve(body), 1)
    made.add(tube((0, 0, 0.04), (0, 0, height * 0.9), 0.015), 1)
    tall = height * (rng.uniform(0.16, 0.26) if is_floor else rng.uniform(0.3, 0.48))
    low = height * (0.85 if is_floor else 0.72)
    top, bottom = radius * rng.uniform(0.35, 1.1), radius * rng.uniform(0.9, 1.5)
    made.add(revolve([(bottom, low), (top, low + tall)]), 0)
    return made


def _jointed_arm(made: Assembly, rng: Generator, *, height: float, radius: float) -> None:
    elbow = np.array([rng.uniform(-0.3, -0.05) * height, 0, height * 0.6])
    head = np.array([rng.uniform(0.15, 0.45) * height, 0, height * rng.uniform(0.85, 1.05)])
    made.add(tube((0, 0, 0.04), elbow, 0.016), 1)
    made.add(tube(elbow, head, 0.014), 1)
    mouth = head + np.array([0.12 * height, 0, -0.22 * height])
    flare = radius * rng.uniform(0.55, 0.9)
    made.add(tube(head, mouth, radius * 0.15, flare, sides=20, closed=False), 0)
