"""Chair, stool, sofa, bed."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.random import Generator

from dataio.datasets.shapes.assembly import CORNERS, SIDES, Assembly
from dataio.datasets.shapes.primitives import box, ellipsoid, extrude, revolve, tube


def chair(rng: Generator) -> Assembly:
    """Seat, one of four backs, arms on 40 %, one of four bases."""
    made = Assembly()
    width, depth = rng.uniform(0.38, 0.6), rng.uniform(0.38, 0.58)
    height, thickness = rng.uniform(0.36, 0.52), rng.uniform(0.02, 0.09)
    taper = (rng.uniform(0.85, 1.1), 1.0)
    made.add(box((0, 0, height), (width, depth, thickness), taper=taper), 0)
    _chair_back(made, rng, width=width, depth=depth, seat=height, thickness=thickness)
    if rng.random() < 0.4:
        rise = rng.uniform(0.15, 0.26)
        for side in SIDES:
            made.add(box((side * width / 2, 0, height + rise), (0.05, depth * 0.9, 0.04)), 1)
            post = (side * width / 2, -depth * 0.35, height + rise / 2)
            made.add(box(post, (0.04, 0.04, rise)), 1)
    _chair_base(made, rng, width=width, depth=depth, height=height)
    return made


def _chair_back(
    made: Assembly, rng: Generator, *, width: float, depth: float, seat: float, thickness: float
) -> None:
    height, recline = rng.uniform(0.3, 0.75), rng.uniform(0, 0.16)
    y, middle = depth / 2 - 0.02, seat + height / 2
    lean = (0.0, recline)
    style = rng.integers(4)
    if style == 0:
        size = (width * rng.uniform(0.8, 1.0), 0.03 + thickness * 0.5, height)
        made.add(box((0, y, middle), size, shear=lean), 0)
    elif style == 1:
        count = int(rng.integers(3, 7))
        for x in (np.arange(count) + 0.5) / count - 0.5:
            made.add(box((x * width * 0.9, y, middle), (0.02, 0.02, height), shear=lean), 1)
        made.add(box((0, y + recline, seat + height), (width * 0.95, 0.03, 0.07)), 1)
    elif style == 2:
        for side in SIDES:
            post = (side * width * 0.45, y, middle)
            made.add(box(post, (0.03, 0.03, height), shear=lean), 1)
        for rung in range(1, int(rng.integers(2, 5)) + 1):
            at = (0, y + recline * rung / 4, seat + height * rung / 4.3)
            made.add(box(at, (width * 0.9, 0.02, 0.06)), 1)
    else:
        turn = np.linspace(0, np.pi, 10)
        outline = np.stack([np.cos(turn) * width / 2, np.sin(turn) * height], axis=1)
        made.add(extrude(outline, 0.04, center=(0, y, seat)), 0)


def _chair_base(
    made: Assembly, rng: Generator, *, width: float, depth: float, height: float
) -> None:
    style = int(rng.integers(4))
    if style < 2:
        thickness, splay = rng.uniform(0.025, 0.06), rng.uniform(0, 0.09)
        made.add_legs((width, depth, height), thickness=thickness, style=style, splay=splay)
    elif style == 2:
        made.add(tube((0, 0, 0.08), (0, 0, height), 0.03), 1)
        for turn in np.arange(5) * 2 * np.pi / 5:
            foot = (np.cos(turn) * width * 0.55, np.sin(turn) * width * 0.55, 0.03)
            made.add(tube((0, 0, 0.1), foot, 0.025, 0.015, sides=6), 1)
    else:
        for side in SIDES:
            made.add(box((side * width * 0.47, 0, 0.015), (0.04, depth, 0.03)), 1)
            for end in SIDES:
                post = (side * width * 0.47, end * depth * 0.42, height / 2)
                made.add(box(post, (0.03, 0.03, height)), 1)


def stool(rng: Generator) -> Assembly:
    """Round (65 %) or square seat on splayed legs, a pedestal or four square legs."""
    made = Assembly()
    height, radius = rng.uniform(0.35, 0.85), rng.uniform(0.15, 0.26)
    thickness = rng.uniform(0.025, 0.12)
    if rng.random() < 0.65:
        top = radius * rng.uniform(0.9, 1.05)
        rim = [(0, height), (radius, height), (top, height + thickness), (0, height + thickness)]
        made.add(revolve(rim), 0)
    else:
        size = (2 * radius, 2 * radius * rng.uniform(0.7, 1), thickness)
        made.add(box((0, 0, height + thickness / 2), size), 0)
    style = rng.integers(3)
    if style == 0:
        _splayed_legs(made, rng, radius=radius, height=height)
    elif style == 1:
        made.add(tube((0, 0, 0.02), (0, 0, height), 0.035), 1)
        made.add(revolve([(0, 0), (radius * 1.05, 0), (radius * 0.9, 0.03), (0, 0.05)]), 1)
    else:
        size = (2 * radius, 2 * radius, height)
        made.add_legs(size, thickness=rng.uniform(0.03, 0.06), style=0, inset=0.05)
    return made


def _splayed_legs(made: Assembly, rng: Generator, *, radius: float, height: float) -> None:
    count, reach = int(rng.integers(3, 5)), rng.uniform(1.0, 1.35)
    turns = (np.arange(count + 1) + 0.5) * 2 * np.pi / count
    unit = np.stack([np.cos(turns), np.sin(turns), np.zeros(count + 1)], axis=1) * radius
    up = np.array([0.0, 0.0, 1.0])
    for corner in unit[:-1]:
        made.add(tube(corner * reach, corner * 0.75 + up * height, 0.022, 0.026, sides=8), 1)
    if rng.random() < 0.6:
        ring = unit * 1.05 + up * height * rng.uniform(0.25, 0.45)
        for a, b in itertools.pairwise(ring):
            made.add(tube(a, b, 0.012, sides=6), 1)


def sofa(rng: Generator) -> Assembly:
    """Base, 1-3 seat and back cushions, arms (rounded on 40 %), chaise on 30 %."""
    made = Assembly()
    width, depth = rng.uniform(1.1, 2.4), rng.uniform(0.7, 1.05)
    seat, back = rng.uniform(0.32, 0.48), rng.uniform(0.3, 0.55)
    arm, arm_rise = rng.uniform(0.1, 0.28), rng.uniform(0.12, 0.32)
    made.add(box((0, 0, seat * 0.55), (width, depth, seat * 0.7)), 0)
    count = int(rng.integers(1, 4))
    cushion = (width - 2 * arm) / count
    for k in range(count):
        x = -width / 2 + arm + cushion * (k + 0.5)
        made.add(box((x, -0.04, seat), (cushion * 0.96, depth * 0.8, 0.14)), 0)
        rest = (x, depth * 0.3, seat + back / 2)
        shear = (0.0, rng.uniform(0, 0.1))
        made.add(box(rest, (cushion * 0.95, 0.18, back), shear=shear), 0)
    low, high = seat * 0.3, seat + back * 0.85
    made.add(box((0, depth / 2 - 0.06, (low + high) / 2), (width, 0.12, high - low)), 0)
    rounded = rng.random() < 0.4
    for side in SIDES:
        x, top = side * (width / 2 - arm / 2), seat + arm_rise
        made.add(box((x, 0, top / 2 + 0.05), (arm, depth, top - 0.08)), 0)
        if rounded:
            ends = (x, -depth / 2, top), (x, depth / 2, top)
            made.add(tube(*ends, arm * 0.62, sides=14), 0)
    if rng.random() < 0.3:
        at = (width / 2 - arm - cushion / 2, -depth * 0.75, seat * 0.6)
        made.add(box(at, (cushion, depth * 0.8, seat * 0.75)), 0)
    style = int(rng.integers(3))
    made.add_legs((width, depth, seat * 0.25), thickness=0.05, style=style, inset=0.08)
    return made


def bed(rng: Generator) -> Assembly:
    """Base, mattress, one of three head boards, pillows; cover, foot board, posts on some."""
    made = Assembly()
    width, length = rng.uniform(0.85, 2.0), rng.uniform(1.85, 2.2)
    base, mattress = rng.uniform(0.22, 0.5), rng.uniform(0.12, 0.3)
    top = base + mattress
    made.add(box((0, 0, base * 0.7), (width * 1.04, length * 1.02, base * 0.45)), 1)
    made.add(box((0, 0, base + mattress / 2), (width, length, mattress)), 0)
    rise = rng.uniform(0.25, 1.0)
    _head_board(made, rng, width=width, y=length / 2 + 0.03, top=top, rise=rise)
    if rng.random() < 0.45:
        high = top + rise * 0.3
        made.add(box((0, -length / 2 - 0.03, high / 2), (width * 1.06, 0.06, high)), 1)
    count = 1 if width < 1.25 else 2
    for k in range(count):
        at = ((k - (count - 1) / 2) * width * 0.48, length / 2 - 0.3, top + 0.05)
        made.add(ellipsoid(at, (width / count * 0.4, 0.2, 0.09), sides=12, rings=6), 2)
    if rng.random() < 0.5:
        cover = (width * 1.03, length * 0.66, 0.05)
        made.add(box((0, -length * 0.16, top + 0.02), cover), 3)
    if rng.random() < 0.2:
        post = rng.uniform(1.6, 2.1)
        for sx, sy in CORNERS:
            x, y = sx * width * 0.52, sy * length * 0.5
            made.add(tube((x, y, 0), (x, y, post), 0.035, sides=8), 1)
    style = int(rng.integers(3))
    made.add_legs((width, length, base * 0.5), thickness=0.07, style=style, inset=0.06)
    return made


def _head_board(
    made: Assembly, rng: Generator, *, width: float, y: float, top: float, rise: float
) -> None:
    high = top + rise
    style = rng.integers(3)
    if style == 0:
        made.add(box((0, y, high / 2), (width * 1.06, 0.06, high)), 1)
    elif style == 1:
        turn = np.linspace(0, np.pi, 10)
        arch = np.stack([np.cos(turn) * width * 0.53, np.sin(turn) * rise * 0.6], axis=1)
        low = top - 0.05
        made.add(extrude(arch, 0.06, center=(0, y, low)), 1)
        made.add(box((0, y, low / 2), (width * 1.06, 0.06, low)), 1)
    else:
        for x in np.linspace(-0.5, 0.5, int(rng.integers(4, 9))) * width:
            made.add(tube((x, y, 0), (x, y, high), 0.02, sides=6), 1)
        made.add(tube((-width / 2, y, high), (width / 2, y, high), 0.03, sides=8), 1)
