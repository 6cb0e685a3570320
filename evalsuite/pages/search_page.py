"""One self-contained HTML file about a search: each query with the shapes found for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalsuite.pages.page_templates import render_page
from evalsuite.pages.strips import Thumb

_MEASURES = {"euclidean": "Euclidean distance", "cosine": "cosine distance"}


@dataclass(frozen=True)
class Hit:
    """One shape that was found, and its distance."""

    thumb: Thumb
    distance: float


@dataclass(frozen=True)
class Answer:
    """A query and its nearest shapes, the nearest first."""

    query: Thumb
    hits: tuple[Hit, ...]


def write_search_page(
    out: Path, answers: Sequence[Answer], *, title: str, metric: str, items: int, kind: str
) -> Path:
    """Write the page to the file ``out``, replacing it in one step, and return ``out``.

    Every name is escaped; pictures are the data URIs of ``Thumb.source``. ``metric`` is euclidean
    or cosine, ``items`` the size of the gallery, ``kind`` that of the index.
    """
    return render_page(
        out,
        "search.html.j2",
        title=title,
        answers=answers,
        measure=_MEASURES[metric],
        items=items,
        searched="The search is exact."
        if kind == "flat"
        else f"The search is approximate (index {kind}).",
    )
