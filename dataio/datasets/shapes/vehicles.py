"""Airplane, car."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from dataio.datasets.shapes.assembly import SIDES, Assembly
from dataio.datasets.shapes.primitives import Solid, box, extrude, loft, revolve, tube


def airplane(rng: Generator) -> Assembly:
    """Fuselage, wings low, middle or high, tail plane or T-tail, four engine choices, gear."""
    made = Assembly()
    length = rng.uniform(8, 16)
    radius = length * rng.uniform(0.045, 0.085)
    made.add(_fuselage(length, radius), 0)
    span, chord = length * rng.uniform(0.8, 1.25), length * rng.uniform(0.1, 0.22)
    sweep, lift = length * rng.uniform(-0.02, 0.26), radius * rng.choice([-0.5, 0, 0.7])
    dihedral, front = rng.uniform(-0.02, 0.06) * span, -length * rng.uniform(0.05, 0.15)
    wing = (span, chord, sweep, dihedral, rng.uniform(0.3, 0.9))
    _wings(made, wing, y=front, z=lift)
    tail_span = span * rng.uniform(0.3, 0.42)
    tail_z = radius * (0.2 if rng.random() < 0.7 else 2.2)
    _wings(made, (tail_span, chord * 0.6, sweep * 0.4, 0.0, 0.6), y=length * 0.36, z=tail_z)
    tip = radius + length * rng.uniform(0.1, 0.18)
    fin = [(0.33, radius * 0.5), (0.47, radius * 0.5), (0.49, tip), (0.42, tip)]
    outline = [(length * y, z) for y, z in fin]
    made.add(extrude(outline, radius * 0.15, axis="x"), 1)
    _engines(made, rng, length=length, radius=radius, span=span, sweep=sweep, lift=lift)
    if rng.random() < 0.5:
        _landing_gear(made, length=length, radius=radius)
    return made


def _fuselage(length: float, radius: float) -> Solid:
    stations = [(0, -0.5), (0.5, -0.46), (1, -0.36), (1, 0.2), (0.45, 0.42), (0, 0.5)]
    body = revolve([(radius * r, length * y) for r, y in stations], sides=16)
    return Solid(body.vertices[:, [0, 2, 1]], body.faces)


def _wings(made: Assembly, wing: tuple[float, ...], *, y: float, z: float) -> None:
    """Two mirrored wings: span, chord, sweep, dihedral and taper of the chord at the tip."""
    span, chord, sweep, dihedral, taper = wing
    half = np.array([0, 0, chord * 0.06])
    for side in SIDES:
        x, tip = side * span / 2, z + dihedral
        plan = [(0, y, z), (0, y + chord, z)]
        plan += [(x, y + sweep + chord * taper, tip), (x, y + sweep, tip)]
        made.add(loft(np.array(plan) - half, np.array(plan) + half), 0)


def _engines(
    made: Assembly,
    rng: Generator,
    *,
    length: float,
    radius: float,
    span: float,
    sweep: float,
    lift: float,
) -> None:
    style = rng.integers(4)
    if style == 1:
        made.add(box((0, -length * 0.505, 0), (radius * 4.5, 0.05, radius * 0.4)), 1)
        return
    if style == 3:
        for side in SIDES:
            x, z = side * radius * 1.4, radius * 0.5
            ends = (x, length * 0.2, z), (x, length * 0.36, z)
            made.add(tube(*ends, radius * 0.4, radius * 0.35, sides=10), 1)
        return
    places, bore = ((0.17,), 0.38) if style == 0 else ((0.15, 0.3), 0.3)
    for place in places:
        for side in SIDES:
            x, z, back = side * span * place, lift - radius * 0.5, sweep * place
            ends = (x, -length * 0.1 + back, z), (x, length * 0.05 + back, z)
            made.add(tube(*ends, radius * bore, radius * bore * 0.8), 1)


def _landing_gear(made: Assembly, *, length: float, radius: float) -> None:
    for x, y in ((0.0, -length * 0.3), (-radius * 1.6, 0.0), (radius * 1.6, 0.0)):
        made.add(tube((x, y, -radius * 0.6), (x, y, -radius * 1.9), radius * 0.1, sides=6), 2)
        half, z = radius * 0.12, -radius * 1.9
        made.add(tube((x - half, y, z), (x + half, y, z), radius * 0.35, sides=10), 2)


def car(rng: Generator) -> Assembly:
    """Sedan, hatchback, van or pickup: lower body, cabin, windows, wheels, lamps."""
    made = Assembly()
    length, width = rng.uniform(3.3, 5.2), rng.uniform(1.55, 1.95)
    height, body = rng.uniform(1.2, 1.9), int(rng.integers(4))
    wheel = rng.uniform(0.28, 0.4)
    clear, belt = wheel * 0.6, height * rng.uniform(0.42, 0.55)
    front, back = -length / 2, length / 2
    lower = [(front, clear), (back, clear), (back, belt * 0.9 + clear * 0.3)]
    lower += [(back - length * 0.03, belt + clear * 0.4)]
    lower += [(front + length * 0.06, belt + clear * 0.35), (front, belt * 0.75 + clear * 0.2)]
    made.add(extrude(lower, width, axis="x"), 0)
    _cabin(made, rng, body, size=(length, width, height), belt=belt, clear=clear)
    for y in (front + length * rng.uniform(0.16, 0.2), back - length * rng.uniform(0.16, 0.21)):
        for side in SIDES:
            _wheel(made, side, y=y, radius=wheel, half_width=width / 2)
    for side in SIDES:
        lamp = (side * width * 0.35, front - 0.01, belt * 0.7 + clear * 0.2)
        made.add(box(lamp, (0.25, 0.06, 0.13)), 1)
    if rng.random() < 0.3 and body == 0:
        spoiler = (0, back - length * 0.06, belt + clear + 0.12)
        made.add(box(spoiler, (width * 0.85, 0.2, 0.03)), 1)
    return made


def _cabin(
    made: Assembly,
    rng: Generator,
    body: int,
    *,
    size: tuple[float, float, float],
    belt: float,
    clear: float,
) -> None:
    length, width, height = size
    hood = rng.uniform(0.18, 0.32)
    trunk = rng.uniform(*((0.14, 0.24), (0.0, 0.06), (0.0, 0.04), (0.35, 0.45))[body])
    screen, rear = length * rng.uniform(0.05, 0.16), length * rng.uniform(0.02, 0.14)
    if body == 2:
        hood *= rng.uniform(0.2, 0.7)
    a, b = length * (hood - 0.5), length * (0.5 - trunk)
    low = belt + clear * 0.3
    cabin = [(a, low), (b, low), (b - rear, height), (a + screen, height)]
    made.add(extrude(cabin, width * rng.uniform(0.84, 0.93), axis="x"), 0)
    sill, head, inset = belt + clear * 0.45, height - 0.09, length * 0.04
    window = [(a + inset, sill), (b - inset, sill)]
    window += [(b - rear - inset / 2, head), (a + screen + inset / 2, head)]
    made.add(extrude(window, width * 0.95, axis="x"), 2)


def _wheel(made: Assembly, side: int, *, y: float, radius: float, half_width: float) -> None:
    for inner, outer, share, part in ((-0.12, 0.03, 1.0, 3), (0.0, 0.045, 0.55, 1)):
        start = (side * (half_width + inner), y, radius)
        end = (side * (half_width + outer), y, radius)
        made.add(tube(start, end, radius * share, sides=16), part)
