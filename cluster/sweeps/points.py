"""From a sweep file to its points, each a training that ``trainer.config.load_config`` can read."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cluster.sweeps.description import Sweep, distribution
from trainer.config import ConfigError, load_config
from trainer.methods import METHODS
from trainer.transfer_pairs import Transfer

Labels = dict[str, Any]
"""A value or a label for each axis, in the order of the axes."""

PAIR = re.compile(r"\s*(\S+?)\s*->\s*(\S+)\s*")


@dataclass(frozen=True)
class Point:
    """One training as a sweep or a table describes it: ``load_config(config, keys)``.

    Attributes:
        labels: its places on the axes; in a table its row, column and seed.
        config: file of the run description that it starts from.
        keys: ``key=value``, set above those of the file.
        start_from: labels of the point whose trained network this one starts from.
    """

    labels: Labels
    config: Path
    keys: tuple[str, ...]
    start_from: Labels | None = None


def as_keys(values: Mapping[str, Any]) -> tuple[str, ...]:
    """``key=value`` for each value, as a command line has it: YAML on one line."""
    return tuple(f"{key}={as_text(value)}" for key, value in values.items())


def as_text(value: Any) -> str:
    """A value as YAML on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1 << 20)
    return dumped.removesuffix("...\n").strip()


def all_labels(sweep: Sweep) -> list[Labels]:
    """The labels of all points of a grid, or of a grid crossed with draws; in a fixed order.

    The points of an optuna search are not known beforehand; see :mod:`cluster.sweeps.proposals`.
    """
    listed = {name: list(v) for name, v in sweep.axes.items() if not distribution(v)}
    combinations = [
        dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())
    ]
    draws = list(_draws(sweep)) if sweep.search.kind == "random" else [{}]
    return [
        {name: {**chosen, **drawn}[name] for name in sweep.axes}
        for drawn in draws
        for chosen in combinations
    ]


def _draws(sweep: Sweep) -> Iterator[Labels]:
    """A generator for each draw, so that more draws leave the first ones as they were."""
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


def point_at(sweep: Sweep, labels: Labels) -> Point:
    """The point with these labels.

    Raises:
        ConfigError: a label does not fit, or no method is named.
    """
    chosen = settings(sweep, labels)
    config, method = _starting_point(sweep, chosen)
    return Point(labels, config, as_keys(overrides(chosen, method)))


def settings(sweep: Sweep, labels: Labels) -> dict[str, Any]:
    """Keys of a run description and their values at a point; those of ``set`` come first.

    Raises:
        ConfigError: a transfer pair cannot be read.
    """
    chosen = dict(sweep.set)
    for name, value in labels.items():
        values = sweep.axes[name]
        if isinstance(values, Mapping) and not distribution(values):
            chosen |= values[value]
        elif name == "transfer":
            chosen |= _pair(value)
        else:
            chosen[name] = value
    return chosen


def _pair(text: Any) -> dict[str, str]:
    """The keys of ``shrec14 -> pix3d``."""
    found = PAIR.fullmatch(str(text))
    if found is None:
        raise ConfigError(f"axes.transfer: '{text}': a pair looks like 'shrec14 -> pix3d'")
    return {"transfer.source": found[1], "transfer.target": found[2]}


def _starting_point(sweep: Sweep, chosen: dict[str, Any]) -> tuple[Path, str]:
    """The file to start from and the method; takes the method out of ``chosen`` where the file's
    name says it."""
    method = chosen.get("method", chosen.get("method.name"))
    if "{method}" in sweep.config:
        if method is None:
            raise ConfigError(
                f"config: '{sweep.config}' stands for a method's own file; name methods on an "
                "axis: method: [dann, astn]"
            )
        chosen.pop("method", None)
        chosen.pop("method.name", None)
        return Path(sweep.config.replace("{method}", str(method))), str(method)
    path = Path(sweep.config)
    return path, str(method) if method is not None else load_config(path).method_name


def overrides(chosen: Mapping[str, Any], method: str) -> dict[str, Any]:
    """``chosen`` as keys for :func:`trainer.config.load_config`.

    A transfer pair becomes the keys of section ``data`` that it stands for, so that it prevails
    over the selections of the file that a cell starts from.
    """
    pair = {k.removeprefix("transfer."): v for k, v in chosen.items() if k.startswith("transfer.")}
    others = {k: v for k, v in chosen.items() if not k.startswith("transfer.")}
    if not pair:
        return others
    try:
        data = Transfer(**pair).data(METHODS[method].streams)
    except ValueError as err:
        raise ConfigError(f"transfer: {' '.join(str(err).split())}") from None
    named = {f"data.{key}": value for key, value in data.items() if value is not None}
    return {**named, **others}


def named_in(sweep: Sweep, axis: str, *, value: Any, reason: str) -> bool:
    """Whether the words ``reason`` are about ``value`` of ``axis``."""
    words, values = [axis], sweep.axes[axis]
    if isinstance(values, Mapping) and not distribution(values):
        words += [*values[value], *(v for v in values[value].values() if isinstance(v, str))]
    elif isinstance(value, str):
        words += value.split(" -> ")
    return any(re.search(rf"(?<![\w.-]){re.escape(w)}(?![\w-])", reason) for w in words)
