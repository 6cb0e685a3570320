"""The methods and their options as plain values, all of it read from the classes.

A method documents itself: module docstring, ``paper``, ``streams``, ``Config`` and ``defaults``.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from pydantic import BaseModel

from dataio.names import nearest
from trainer.config import ConfigError
from trainer.fields import describe_fields
from trainer.methods import METHODS, Method, MethodConfig
from trainer.networks import NetworkConfig
from trainer.sections import OptimizerConfig, TrainingConfig

SECTIONS: dict[str, type[BaseModel]] = {
    "network": NetworkConfig,
    "optimizer": OptimizerConfig,
    "training": TrainingConfig,
}


def find_method(name: str) -> type[Method]:
    """The method called ``name``.

    Raises:
        ConfigError: there is none; the message names the nearest.
    """
    if name not in METHODS:
        raise ConfigError(f"unknown method '{name}'{nearest(name, METHODS)}")
    return METHODS[name]


def describe_all() -> list[dict[str, Any]]:
    """:func:`describe` of every method, without the fields."""
    return [{k: v for k, v in describe(name).items() if k != "fields"} for name in METHODS]


def describe(name: str) -> dict[str, Any]:
    """One method as JSON values.

    ``origin`` is the distribution that brings it, null for img2shape itself; ``streams`` by name
    with ``modality``, ``labelled`` and ``drawn`` (false: only walked at the end or between rounds);
    ``balanced`` has P and K where batches are P classes x K samples, else
    null; ``defaults`` by section, the method's own (listed in ``own_defaults``) over the common
    ones; ``fields`` of ``method.*``, the method's own before those that all methods have.

    Raises:
        ConfigError: unknown name; the message names the nearest.
    """
    cls = find_method(name)
    return {
        "name": name,
        "origin": METHODS.origin(name),
        "paper": cls.paper,
        "summary": _first_sentence(sys.modules[cls.__module__].__doc__ or cls.__doc__ or ""),
        "streams": {
            stream: {
                "modality": need.modality,
                "labelled": need.labelled,
                "drawn": stream not in cls.walked,
            }
            for stream, need in cls.streams.items()
        },
        "balanced": _balanced(cls),
        "defaults": _defaults(cls),
        "own_defaults": {section: dict(values) for section, values in cls.defaults.items()},
        "fields": describe_fields(cls.Config, common=MethodConfig),
    }


def _first_sentence(docstring: str) -> str:
    """The docstring's first sentence as one line, without its remark on equation numbers."""
    paragraph = " ".join(docstring.strip().split("\n\n")[0].split())
    paragraph = re.sub(r"[;,]? ?equations? [^()]*(?=\))", "", paragraph).replace(" ()", "")
    return re.split(r"(?<=\w\w[.)])\s(?=[A-Z])", paragraph)[0].rstrip(".:")


def _balanced(cls: type[Method]) -> dict[str, int] | None:
    if not cls.balanced:
        return None
    config: Any = cls.Config()
    return {
        "classes_per_batch": config.classes_per_batch,
        "samples_per_class": config.samples_per_class,
    }


def _defaults(cls: type[Method]) -> dict[str, dict[str, Any]]:
    found = {
        section: model(**cls.defaults.get(section, {})).model_dump(mode="json")
        for section, model in SECTIONS.items()
    }
    balanced = _balanced(cls)
    if balanced is not None:
        found["training"]["batch"] = balanced["classes_per_batch"] * balanced["samples_per_class"]
    return found
