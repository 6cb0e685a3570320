"""The fields of an options model as plain values: name, type, default, description."""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥"}


def describe_fields(model: type[BaseModel], *, common: type[BaseModel]) -> list[dict[str, Any]]:
    """The fields of ``model`` as JSON values; those that it shares with ``common`` come last."""
    defaults = model()
    shared = common.model_fields
    ordered = sorted(model.model_fields, key=lambda name: name in shared)  # stable
    return [
        {
            "name": name,
            "type": _type(model.model_fields[name]),
            "default": to_jsonable_python(getattr(defaults, name)),
            "description": model.model_fields[name].description or "",
            "common": name in shared,
        }
        for name in ordered
    ]


def _type(field: FieldInfo) -> str:
    """``float ≥ 0``, ``center | instance``, ``int | null``, ``list of str``."""
    limits = [
        f"{sign} {getattr(limit, name):g}"
        for limit in field.metadata
        for name, sign in LIMITS.items()
        if getattr(limit, name, None) is not None
    ]
    return " ".join([_shown(field.annotation), ", ".join(limits)]).strip()


def _shown(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (Union, types.UnionType):
        return " | ".join(map(_shown, inner))
    if origin in (tuple, list, frozenset):
        return f"list of {_shown(inner[0])}"
    if annotation is type(None):
        return "null"
    return getattr(annotation, "__name__", str(annotation))
