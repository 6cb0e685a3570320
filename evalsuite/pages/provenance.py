"""The origin of the numbers: options, versions, timings and data of the runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from evalsuite.pages.headline import number
from evalsuite.pages.runs import RunView


@dataclass(frozen=True)
class SideBySide:
    """A table with one column a run. Each row is (its name, one text a run)."""

    title: str
    rows: list[tuple[str, list[str]]]


def comparisons(runs: Sequence[RunView]) -> list[SideBySide]:
    """Identity, data, differing options, timings and versions, without the empty tables."""
    facts = ("method", "dataset", "seed", "world_size", "steps", "parameters", "status")
    identity = _side_by_side([_chosen(run.info, facts) for run in runs])
    data = _side_by_side([_mapping(run.info.get("data")) for run in runs])
    timings = _side_by_side(
        [
            {phase: duration(number(seconds)) for phase, seconds in _mapping(timing).items()}
            for timing in (run.info.get("timings") for run in runs)
        ]
    )
    versions = _side_by_side([_mapping(run.info.get("versions")) for run in runs])
    tables = {
        "Training": identity,
        "Data": data,
        "Options that differ": config_differences([run.config_text for run in runs]),
        "Timings": timings,
        "Versions": versions,
    }
    return [SideBySide(title, rows) for title, rows in tables.items() if rows]


def config_differences(texts: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The options on which the configurations differ, as (dotted name, one value a configuration).

    A text that is not YAML counts as a configuration without options.
    """
    rows = _side_by_side([_flat(_parsed(text)) for text in texts])
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def duration(seconds: float) -> str:
    """A time in the two units that matter: `8.4 s`, `3 min 12 s`, `2 h 05 min`."""
    if not seconds >= 0:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _chosen(info: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key.replace("_", " "): info[key] for key in keys if key in info}


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _side_by_side(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [
        (str(name), [_word(column[name]) if name in column else "–" for column in columns])
        for name in names
    ]


def _word(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}".replace(",", "\u202f")  # narrow no-break space between thousands
    return str(value)


def _parsed(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return {}


def _flat(value: object, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: value} if prefix else {}
    parts: dict[str, Any] = {}
    for key, part in value.items():
        parts |= _flat(part, f"{prefix}.{key}" if prefix else str(key))
    return parts
