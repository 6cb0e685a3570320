"""Table, bookshelf, wardrobe."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from dataio.datasets.shapes.assembly import SIDES, Assembly
from dataio.datasets.shapes.primitives import box, revolve, tube


def table(rng: Generator) -> Assembly:
    """Round (35 %) or rectangular top on legs, a tripod, a pedestal or trestles; apron on some."""
    made = Assembly()
    width = rng.uniform(0.6, 1.9)
    depth = width * rng.uniform(0.45, 1)
    height, top = rng.uniform(0.4, 0.95), rng.uniform(0.02, 0.08)
    is_round = rng.random() < 0.35
    oval = (1.0, depth / width)
    if is_round:
        half, upper = width / 2, height + top
        rim = [(0, height), (half, height), (half, upper), (0, upper)]
        made.add(revolve(rim, scale=oval), 0)
    else:
        made.add(box((0, 0, height + top / 2), (width, depth, top)), 0)
    style = rng.integers(4)
    if style == 0 or (style == 1 and not is_round):
        reach = 0.7 if is_round else 1.0
        size = (width * reach, depth * reach, height)
        thickness, kind = rng.uniform(0.04, 0.1), int(rng.integers(3))
        made.add_legs(size, thickness=thickness, style=kind, inset=0.06)
    else:
        _table_base(made, rng, int(style), size=(width, depth, height))
    if not is_round and rng.random() < 0.35:
        made.add(box((0, 0, height - 0.05), (width * 0.88, depth * 0.85, 0.08)), 1)
    return made


def _table_base(
    made: Assembly, rng: Generator, style: int, *, size: tuple[float, float, float]
) -> None:
    width, depth, height = size
    if style == 1:
        for turn in np.arange(3) * 2 * np.pi / 3:
            x, y = np.cos(turn) * width, np.sin(turn) * depth
            foot, head = (x * 0.35, y * 0.35, 0), (x * 0.12, y * 0.12, height)
            made.add(tube(foot, head, 0.03, sides=8), 1)
    elif style == 2:
        made.add(tube((0, 0, 0.03), (0, 0, height), rng.uniform(0.04, 0.1)), 1)
        plate = [(0, 0), (width * 0.3, 0), (width * 0.26, 0.05), (0, 0.07)]
        made.add(revolve(plate, scale=(1.0, depth / width)), 1)
    else:
        for side in SIDES:
            made.add(box((side * width * 0.38, 0, height / 2), (0.05, depth * 0.8, height)), 1)
        made.add(box((0, 0, height * 0.35), (width * 0.74, 0.03, 0.08)), 1)


def bookshelf(rng: Generator) -> Assembly:
    """Sides, 2-7 boards, 1-3 columns, back on 60 %, books on 0-90 % of the places."""
    made = Assembly()
    width, height = rng.uniform(0.5, 1.6), rng.uniform(0.8, 2.2)
    depth, board = rng.uniform(0.22, 0.4), rng.uniform(0.015, 0.04)
    boards, columns = int(rng.integers(2, 7)), int(rng.integers(1, 4))
    for side in SIDES:
        made.add(box((side * (width - board) / 2, 0, height / 2), (board, depth, height)), 0)
    for level in np.linspace(board / 2, height - board / 2, boards + 1):
        made.add(box((0, 0, level), (width, depth, board)), 0)
    for column in range(1, columns):
        x = -width / 2 + width * column / columns
        made.add(box((x, 0, height / 2), (board, depth, height)), 0)
    if rng.random() < 0.6:
        made.add(box((0, depth / 2 - 0.005, height / 2), (width, 0.01, height)), 0)
    fill = rng.uniform(0.0, 0.9)
    space = (height - board) / boards
    for level in range(boards):
        row = (width, depth * 0.7, space - board)
        _books(made, rng, floor=board + space * level, size=row, margin=board, fill=fill)
    return made


def _books(
    made: Assembly,
    rng: Generator,
    *,
    floor: float,
    size: tuple[float, float, float],
    margin: float,
    fill: float,
) -> None:
    width, depth, height = size
    x = -width / 2 + margin
    while x < width / 2 - 0.06:
        thick = rng.uniform(0.02, 0.055)
        if rng.random() < fill:
            tall = height * rng.uniform(0.55, 0.92)
            at = (x + thick / 2, -0.02, floor + tall / 2)
            made.add(box(at, (thick * 0.95, depth, tall)), 2 + int(rng.integers(3)))
        x += thick + (0.0 if rng.random() < 0.9 else rng.uniform(0.05, 0.2))


def wardrobe(rng: Generator) -> Assembly:
    """Body with 1-4 doors; drawers on 40 %, door panels on 35 %, cornice on half."""
    made = Assembly()
    width, height = rng.uniform(0.7, 2.0), rng.uniform(1.4, 2.3)
    depth, doors = rng.uniform(0.45, 0.7), int(rng.integers(1, 5))
    front = -depth / 2
    made.add(box((0, 0, height / 2 + 0.05), (width, depth, height)), 0)
    low = height * rng.uniform(0.2, 0.35) if rng.random() < 0.4 else 0.0
    door, tall = width / doors, height - low
    for k in range(doors):
        x = -width / 2 + door * (k + 0.5)
        leaf = (door * 0.94, 0.024, tall * 0.95)
        made.add(box((x, front - 0.012, 0.08 + low + tall / 2), leaf), 1)
        handle = (x + (1 if k % 2 == 0 else -1) * door * 0.38, front - 0.035, height * 0.5)
        made.add(box(handle, (0.018, 0.03, rng.uniform(0.06, 0.3))), 2)
        if rng.random() < 0.35:
            panel = (x, front - 0.03, 0.08 + low + tall * 0.55)
            made.add(box(panel, (door * 0.6, 0.012, tall * 0.6)), 0)
    if low:
        for k in range(2):
            z = 0.07 + low * (k + 0.5) / 2
            made.add(box((0, front - 0.012, z), (width * 0.94, 0.024, low * 0.42)), 1)
            made.add(box((0, front - 0.035, z), (0.12, 0.03, 0.02)), 2)
    if rng.random() < 0.5:
        made.add(box((0, 0, height + 0.09), (width * 1.06, depth * 1.08, 0.07)), 1)
    style = int(rng.integers(2))
    made.add_legs((width, depth, 0.06), thickness=0.06, style=style, inset=0.06)
    return made
