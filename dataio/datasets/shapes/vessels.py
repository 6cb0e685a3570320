"""Bottle, vase, cup, potted plant."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from dataio.datasets.shapes.assembly import SIDES, Assembly
from dataio.datasets.shapes.primitives import box, ellipsoid, path, revolve, tube


def bottle(rng: Generator) -> Assembly:
    """Body, shoulder smoothed into a neck, rim; label band on half."""
    made = Assembly()
    height = rng.uniform(0.18, 0.4)
    radius = height * rng.uniform(0.11, 0.22)
    shoulder = height * rng.uniform(0.45, 0.7)
    neck = radius * rng.uniform(0.25, 0.45)
    profile = [(0, 0), (radius, 0), (radius * rng.uniform(0.9, 1.05), shoulder * 0.5)]
    profile.append((radius, shoulder))
    for t in np.linspace(0.2, 1, 5):
        ease = 3 * t * t - 2 * t**3
        profile.append((radius + (neck - radius) * ease, shoulder + (height * 0.82 - shoulder) * t))
    profile += [(neck, height * 0.93), (neck * 1.25, height * 0.93)]
    profile += [(neck * 1.25, height), (0, height)]
    made.add(revolve(profile), 0)
    if rng.random() < 0.5:
        low, high = shoulder * 0.2, shoulder * 0.75
        inner, outer = radius * 1.03, radius * 1.06
        band = [(inner, low), (outer, low * 1.1), (outer, high), (inner, high * 1.02)]
        made.add(revolve(band), 2)
    return made


def vase(rng: Generator) -> Assembly:
    """One of four profile families with an open top; handles on 30 %."""
    made = Assembly()
    height = rng.uniform(0.2, 0.6)
    radius = height * rng.uniform(0.18, 0.42)
    level = np.linspace(0, 1, 14)
    widths = radius * np.clip(_vase_profile(rng, level), 0.16, 1.2)
    profile = [(0.0, 0.0), *zip(widths, level * height, strict=True)]
    profile += [(widths[-1] * 0.88, height), (widths[-3] * 0.82, height * 0.8), (0, height * 0.75)]
    made.add(revolve(profile), 0)
    if rng.random() < 0.3:
        bend = np.linspace(-np.pi / 2, np.pi / 2, 7)
        z = height * (0.62 + 0.16 * np.sin(bend))
        x = np.interp(z, level * height, widths) * 0.96 + radius * 0.42 * np.cos(bend)
        for side in SIDES:
            points = np.stack([side * x, np.zeros(7), z], axis=1)
            made.add(path(list(points), height / 15), 0)
    return made


def _vase_profile(rng: Generator, level: np.ndarray) -> np.ndarray:
    family = rng.integers(4)
    if family == 0:  # belly
        phase = np.clip(level * rng.uniform(0.8, 1.15) + 0.08, 0, 1)
        return 0.45 + 0.55 * np.sin(np.pi * phase)
    if family == 1:  # flare
        return 0.5 + 0.5 * level ** rng.uniform(0.6, 2.2)
    if family == 2:  # S curve
        turns = 2 * np.pi * level * rng.uniform(0.7, 1.1)
        return 0.55 + 0.35 * np.sin(turns + rng.uniform(-0.5, 0.6))
    lip = np.clip(level - 0.75, 0, 1) * 4 * rng.uniform(0.3, 0.9)  # inverted
    return 1 - 0.55 * level + 0.45 * lip


def cup(rng: Generator) -> Assembly:
    """Hollow body, handle on 85 %, saucer on 35 %."""
    made = Assembly()
    height = rng.uniform(0.07, 0.15)
    radius, taper = height * rng.uniform(0.35, 0.65), rng.uniform(0.6, 1.05)
    foot, middle = radius * taper, radius * (taper + 1) / 2
    outside = [(0, 0), (foot, 0), (middle, height * 0.5), (radius, height)]
    inside = [(radius * 0.9, height), (foot * 0.88, height * 0.1), (0, height * 0.1)]
    made.add(revolve(outside + inside), 0)
    if rng.random() < 0.85:
        grip, reach = height * rng.uniform(0.22, 0.36), rng.uniform(0.9, 1.1)
        bend = np.linspace(-np.pi / 2, np.pi / 2, 8)
        x = middle * 0.95 + grip * reach * np.cos(bend)
        points = np.stack([x, np.zeros(8), height * 0.52 + grip * np.sin(bend)], axis=1)
        made.add(path(list(points), height * 0.06), 0)
    if rng.random() < 0.35:
        rim = radius * rng.uniform(1.3, 1.9)
        dish = [(0, -0.012), (rim, 0.0), (radius * 1.2, -0.012), (0, -0.012)]
        made.add(revolve(dish), 1)
    return made


def plant(rng: Generator) -> Assembly:
    """Round (70 %) or square pot; bent leaves, leafy balls on a stem, or flowers."""
    made = Assembly()
    radius = rng.uniform(0.08, 0.18)
    height, taper = radius * rng.uniform(1.0, 2.4), rng.uniform(0.6, 0.95)
    if rng.random() < 0.7:
        outside = [(0, 0), (radius * taper, 0), (radius, height), (radius * 1.12, height)]
        rim = [(radius * 1.12, height * 1.1), (radius * 0.9, height * 1.1)]
        soil = [(radius * 0.9, height * 0.95), (0, height * 0.95)]
        made.add(revolve(outside + rim + soil), 0)
    else:
        foot = 2 * radius * taper
        made.add(box((0, 0, height / 2), (foot, foot, height), taper=(1 / taper, 1 / taper)), 0)
    style, tall = rng.integers(3), rng.uniform(0.2, 0.75)
    grow = (_leaves, _bush, _flowers)[style]
    grow(made, rng, pot=height, tall=tall)
    return made


def _leaves(made: Assembly, rng: Generator, *, pot: float, tall: float) -> None:
    root = np.array([0, 0, pot])
    for _ in range(int(rng.integers(7, 16))):
        turn, rise = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 1.25)
        length = tall * rng.uniform(0.6, 1.1)
        around = np.array([np.cos(turn), np.sin(turn), 0])
        up = np.array([0, 0, 1.0])
        bend = root + length * 0.55 * (around * np.cos(rise) + up * np.sin(rise))
        droop = around * np.cos(rise * 0.4) + up * (np.sin(rise * 0.3) - 0.25)
        made.add(tube(root, bend, 0.008, 0.03, sides=4), 2)
        made.add(tube(bend, bend + length * 0.5 * droop, 0.03, 0.004, sides=4), 2)


def _bush(made: Assembly, rng: Generator, *, pot: float, tall: float) -> None:
    made.add(tube((0, 0, pot), (0, 0, pot + tall * 0.5), 0.015, sides=6), 1)
    for _ in range(int(rng.integers(4, 9))):
        at = rng.normal(0, 1, 3) * np.array([0.35, 0.35, 0.25]) * tall * 0.6
        at[2] += pot + tall * 0.75
        ball = np.array([1, 1, 0.8]) * tall * rng.uniform(0.14, 0.28)
        made.add(ellipsoid(at, ball, sides=10, rings=6), 2)


def _flowers(made: Assembly, rng: Generator, *, pot: float, tall: float) -> None:
    for _ in range(int(rng.integers(3, 8))):
        turn, reach = rng.uniform(0, 2 * np.pi), tall * 0.3 * rng.random()
        head = (np.cos(turn) * reach, np.sin(turn) * reach, pot + tall * rng.uniform(0.6, 1))
        made.add(tube((0, 0, pot), head, 0.007, sides=5), 2)
        made.add(ellipsoid(head, (0.05, 0.05, 0.035), sides=8, rings=5), 3)
