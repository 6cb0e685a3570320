"""Every data set that can be packed, by name, and options from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import Any

import yaml
from pydantic import ValidationError

from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.names import nearest
from dataio.records import DataError

_MODULES = (
    "folder",
    "mi3dor",
    "mi3dor2",
    "shrec",
    "pix3d",
    "shapenet",
    "imagenet",
    "modelnet",
    "sh3f",
    "procedural",
)  # each has ADAPTERS, a tuple of Adapter


@cache
def _adapters() -> dict[str, Adapter]:
    modules = (import_module(f"dataio.datasets.{name}") for name in _MODULES)
    return {one.name: one for module in modules for one in module.ADAPTERS}


def adapter_names() -> tuple[str, ...]:
    """The names of all adapters, in the order of the documentation."""
    return tuple(_adapters())


def adapter(name: str) -> Adapter:
    """The adapter called `name`; DataError with the nearest match if there is none."""
    known = _adapters()
    if name not in known:
        raise DataError(f"unknown data set '{name}'{nearest(name, known)}")
    return known[name]


def parse_options(chosen: Adapter, given: Mapping[str, str]) -> AdapterOptions:
    """Options of `chosen` from texts as on the command line (`views=12`, `classes=[bed,chair]`).

    Raises DataError for an unknown option, with the nearest match, and for a value that does not
    fit.
    """
    values: dict[str, Any] = {}
    for key, text in given.items():
        if key not in chosen.options.model_fields:
            raise DataError(f"{chosen.name}: no option '{key}'{nearest(key, _names(chosen))}")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key] = text
    try:
        return chosen.options(**values)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"])) or "options"
        raise DataError(
            f"{chosen.name}: option {option}: {first['msg']} (given: {first.get('input')!r})"
        ) from None


def _names(chosen: Adapter) -> list[str]:
    return list(chosen.options.model_fields)
