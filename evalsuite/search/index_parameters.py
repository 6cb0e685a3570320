"""The parameters of an index: what each kind takes, defaults by the gallery's size, and limits.

- ``flat``: none; exact.
- ``ivf``: k-means cells, of which a query searches some. ``nlist`` cells, ``nprobe`` searched.
- ``hnsw``: a graph of neighbours. ``links`` per item (M; twice that on the lowest level),
  ``ef_search`` candidates followed by a query, ``ef_construction`` by an item that is added.
- ``ivfpq``: cells whose vectors are codes of ``subspaces`` x ``bits`` bits (product quantisation).
  A width that ``subspaces`` does not divide is filled up with zeros, which change no distance.

Defaults follow FAISS's guidelines (wiki, "Guidelines to choose an index"): 4 sqrt(G) cells as long
as k-means has 39 items for each, the fewest FAISS trains on without a warning.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from evalsuite.vectors import EvaluationError

KINDS = ("flat", "ivf", "hnsw", "ivfpq")
PARAMETERS: dict[str, tuple[str, ...]] = {
    "flat": (),
    "ivf": ("nlist", "nprobe", "seed"),
    "hnsw": ("links", "ef_construction", "ef_search"),
    "ivfpq": ("nlist", "nprobe", "subspaces", "bits", "seed"),
}

ITEMS_PER_CENTROID = 39
LEAST_BITS = 4  # 16 centroids a subspace: with fewer, codes tell little apart
MOST_BITS = 8  # what GPU indexes take
LEAST_ITEMS = {"ivf": 2 * ITEMS_PER_CENTROID, "ivfpq": ITEMS_PER_CENTROID << LEAST_BITS}


def choose_parameters(
    kind: str, *, items: int, width: int, given: Mapping[str, int | None] | None = None
) -> dict[str, int]:
    """All parameters of an index over ``items`` vectors of ``width`` components.

    ``given`` ones are kept, None stands for the default: nlist min(4 sqrt(G), G / 39); nprobe
    sqrt(nlist), at least 8; links 32, ef_construction 100, ef_search 128; subspaces D / 4, at most
    64; bits 8, fewer below 9,984 items; seed 0.

    Raises ``EvaluationError``: an unknown kind, a parameter of another kind or out of range, or a
    gallery too small for the kind.
    """
    if kind not in KINDS:
        raise EvaluationError(f"kind={kind!r}: expected one of {', '.join(KINDS)}")
    wanted = {name: value for name, value in (given or {}).items() if value is not None}
    foreign = [name for name in wanted if name not in PARAMETERS[kind]]
    if foreign:
        takes = ", ".join(PARAMETERS[kind]) or "no parameters"
        raise EvaluationError(f"{foreign[0]}: {kind} has no such parameter; it takes {takes}")
    if items < LEAST_ITEMS.get(kind, 1):
        smaller = "flat" if kind == "ivf" else "flat or hnsw"
        raise EvaluationError(
            f"kind={kind!r}: needs a gallery of at least {LEAST_ITEMS[kind]} items to train on, "
            f"this one has {items}; use {smaller}"
        )
    chosen = {**_defaults(kind, items, width, wanted), **wanted}
    for name, (low, high, why) in _limits(items, width, chosen).items():
        if name in chosen and not low <= chosen[name] <= high:
            raise EvaluationError(
                f"{name}={chosen[name]}: expected {low} to {high}{f' ({why})' if why else ''}"
            )
    return chosen


def _defaults(kind: str, items: int, width: int, wanted: Mapping[str, int]) -> dict[str, int]:
    if kind == "hnsw":
        return {"links": 32, "ef_construction": 100, "ef_search": 128}
    if kind == "flat":
        return {}
    nlist = wanted.get("nlist", min(round(4 * math.sqrt(items)), items // ITEMS_PER_CENTROID))
    nprobe = min(max(nlist, 1), max(8, round(math.sqrt(max(nlist, 0)))))
    cells = {"nlist": nlist, "nprobe": nprobe}
    if kind == "ivfpq":
        trainable = (items // ITEMS_PER_CENTROID).bit_length() - 1
        cells |= {"subspaces": min(64, -(-width // 4)), "bits": min(MOST_BITS, trainable)}
    return {**cells, "seed": 0}


def _limits(items: int, width: int, chosen: Mapping[str, int]) -> dict[str, tuple[int, int, str]]:
    """Least and greatest value of each parameter, and why."""
    trainable = min(MOST_BITS, items.bit_length() - 1)
    return {
        "nlist": (1, items, "at most one cell per gallery item"),
        "nprobe": (1, chosen.get("nlist", 1), "no more than nlist"),
        "links": (2, 512, ""),
        "ef_construction": (1, 1 << 20, ""),
        "ef_search": (1, 1 << 20, ""),
        "subspaces": (1, width, "at most one per component"),
        "bits": (1, trainable, "a centroid needs a gallery item, and GPUs take 8"),
        "seed": (0, 2**31 - 1, ""),
    }
