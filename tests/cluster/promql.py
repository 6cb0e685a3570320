"""What a PromQL expression of dashboards and alerts names: metrics, labels, label values."""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["Named", "named"]

_SELECTOR = re.compile(r"\b(img2shape_\w+)(?:{([^}]*)})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
_SUFFIX = re.compile(r"_(?:bucket|sum|count)$")


@dataclass(frozen=True)
class Named:
    """Metrics with the (label, value) pairs they are chosen by, and the labels grouped by."""

    selected: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    grouped: frozenset[str]

    @property
    def metrics(self) -> set[str]:
        return {name for name, _ in self.selected}


def named(expression: str) -> Named:
    """Names in ``expression``; a histogram's series count as the histogram."""
    selected = tuple(
        (_SUFFIX.sub("", name), tuple(_MATCHER.findall(labels or "")))
        for name, labels in _SELECTOR.findall(expression)
    )
    grouped = {
        label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")
    }
    return Named(selected, frozenset(grouped))
