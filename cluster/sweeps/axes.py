"""From the axes of a sweep to its points, and from a point to the keys that it sets."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cluster.sweeps.description import Sweep, distribution
from trainer.config import ConfigError
from trainer.methods import METHODS
from trainer.transfer_pairs import Transfer

Point = dict[str, Any]
"""A value or a label for each axis, in the order of the axes."""

PAIR = re.compile(r"\s*(\S+?)\s*->\s*(\S+)\s*")


def points(sweep: Sweep) -> list[Point]:
    """All points of a grid, or of a grid crossed with draws; in a fixed order.

    The points of an optuna search are not known beforehand; see :mod:`cluster.sweeps.proposals`.
    """
    listed = {name: axis_labels(v) for name, v in sweep.axes.items() if not distribution(v)}
    combinations = [
        dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())
    ]
    draws = list(_draws(sweep)) if sweep.search.kind == "random" else [{}]
    return [
        {name: {**chosen, **drawn}[name] for name in sweep.axes}
        for drawn in draws
        for chosen in combinations
    ]


def axis_labels(values: Any) -> list[Any]:
    """The values of a listed axis, or the labels of one that names its settings."""
    return list(values)


def _draws(sweep: Sweep) -> Iterator[Point]:
    """A generator for each draw: asking for more draws keeps the ones there were."""
    for number in range(sweep.search.trials or 0):
        random = np.random.default_rng((sweep.search.seed, number))
        yield {
            name: _drawn(random, *found)
            for name, values in sweep.axes.items()
            if (found := distribution(values))
        }


def _drawn(random: np.random.Generator, kind: str, low: float, high: float) -> float | int:
    if kind == "int":
        return int(random.integers(int(low), int(high), endpoint=True))
    if kind == "loguniform":
        value = np.exp(random.uniform(np.log(low), np.log(high)))
    else:
        value = random.uniform(low, high)
    return float(f"{value:.4g}")  # readable in tables and on a command line


def settings(sweep: Sweep, point: Point) -> dict[str, Any]:
    """Keys of a run description and their values at ``point``, those of ``set`` first."""
    chosen = dict(sweep.set)
    for name, value in point.items():
        values = sweep.axes[name]
        if isinstance(values, Mapping) and not distribution(values):
            chosen |= values[value]
        elif name == "transfer":
            chosen |= _pair(value)
        else:
            chosen[name] = value
    return chosen


def _pair(text: Any) -> dict[str, str]:
    """``shrec14 -> pix3d``."""
    found = PAIR.fullmatch(str(text))
    if found is None:
        raise ConfigError(f"axes.transfer: '{text}': a pair looks like 'shrec14 -> pix3d'")
    return {"transfer.source": found[1], "transfer.target": found[2]}


def overrides(chosen: Mapping[str, Any], method: str) -> list[tuple[str, Any]]:
    """``chosen`` as keys and values for :func:`trainer.config.load_config`, in order.

    A transfer pair becomes the keys of section ``data`` that it stands for, so that it prevails
    over the selections of the file that a cell starts from.
    """
    pair = {k.removeprefix("transfer."): v for k, v in chosen.items() if k.startswith("transfer.")}
    found = [(k, v) for k, v in chosen.items() if not k.startswith("transfer.")]
    if not pair:
        return found
    try:
        data = Transfer(**pair).data(METHODS[method].streams)
    except ValueError as err:
        raise ConfigError(f"transfer: {' '.join(str(err).split())}") from None
    named = [(f"data.{key}", value) for key, value in data.items() if value is not None]
    return [*named, *found]
