"""By what a checkpoint can be chosen among those of a run, and with which methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer.choosing.criteria import CRITERIA
from trainer.methods import METHODS, Method

SELECTIONS = ("last", "oracle", *CRITERIA)
"""``last``: the newest one; ``oracle``: by a metric on labels of what is evaluated; the others by a
criterion of :mod:`trainer.choosing.criteria`."""


def usable_criteria(method_name: str) -> tuple[str, ...]:
    """The criteria that can choose among the checkpoints of a method.

    There are none for methods without a classifier, or with a single fit at the end."""
    return tuple(c for c in CRITERIA if criterion_refusal(method_name, c) is None)


def criterion_refusal(method_name: str, criterion: str) -> str | None:
    """Why ``criterion`` cannot choose among the checkpoints of a method, with the remedy; None
    where it can."""
    method, remedy = METHODS[method_name], "use validation.criterion=null"
    if not method.has_classifier:
        return f"{method_name} has no classifier, which criterion '{criterion}' needs; {remedy}"
    if method.finish is not Method.finish:
        return (
            f"{method_name} is fitted after its last step, so criterion '{criterion}' has no "
            f"checkpoints to choose among; {remedy}"
        )
    return None


def criterion_selections(config: Mapping[str, Any], criterion: str) -> dict[str, dict[str, Any]]:
    """What a criterion is computed on, by name in section ``data``: the unlabelled streams of
    training, or split ``train`` of the gallery for a method without any; for ``source-val`` split
    ``val`` of the labelled ones.

    Args:
        config: a run description in the form of ``RunConfig.to_dict``.
    """
    streams, data = METHODS[config["method"]["name"]].streams, config["data"]
    if criterion == "source-val":
        return {name: {**data[name], "split": "val"} for name, n in streams.items() if n.labelled}
    unlabelled = {name: data[name] for name, need in streams.items() if not need.labelled}
    return unlabelled or {"gallery": {**data["gallery"], "split": "train"}}


def criterion_place(config: Mapping[str, Any], criterion: str) -> str:
    """``target_images/train + target_shapes/train``: where a criterion is computed."""
    found = criterion_selections(config, criterion)
    return " + ".join(f"{name}/{selection['split']}" for name, selection in found.items())
