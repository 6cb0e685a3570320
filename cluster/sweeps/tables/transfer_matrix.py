"""Every method from every data set to every data set, as a sweep and as matrices."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.sweeps import Outcome, Sweep
from evalsuite.pages import TransferMatrix
from trainer.config import ConfigError, validated

METHOD, PAIR, SEED = "method", "transfer", "training.seed"


def matrix_sweep(
    methods: Sequence[str],
    data_sets: Sequence[str],
    *,
    config: str,
    seeds: int,
    keys: Mapping[str, Any],
    name: str = "matrix",
    selection: str = "last",
) -> Sweep:
    """The sweep of ``methods`` over all ordered pairs of ``data_sets``, each with itself included.

    Args:
        data_sets: names below ``transfer.folder``, paths or URLs of packed data sets.
        config: run description that cells start from, with {method}.
        keys: set in all cells; those of ``transfer`` say how the pairs are read.

    Raises:
        ConfigError: fewer than two data sets, or something is named twice.
    """
    if len(data_sets) < 2:
        raise ConfigError("--datasets: a matrix needs two or more, as --datasets data/a,data/b")
    for option, values in (("--methods", methods), ("--datasets", data_sets)):
        if len({*values}) < len(values):
            raise ConfigError(f"{option}: something is named twice in {','.join(values)}")
    pairs = [f"{a} -> {b}" for a, b in itertools.product(data_sets, repeat=2)]
    axes = {METHOD: list(methods), PAIR: pairs, SEED: list(range(seeds))}
    tree = {
        "name": name,
        "config": config,
        "set": dict(keys),
        "axes": axes,
        "selection": selection,
    }
    return validated(Sweep, tree, where="matrix")


def transfer_matrices(outcome: Outcome, *, metric: str = "mAP") -> list[TransferMatrix]:
    """A matrix for each method, in order: mean over seeds of the selected checkpoint's metric."""
    found: dict[str, dict[tuple[str, str], list[Mapping[str, Any]]]] = {}
    for row in outcome.rows:
        place = _place(row["cell"])
        found.setdefault(row["cell"][METHOD], {}).setdefault(place, []).append(row)
    reasons: dict[str, dict[tuple[str, str], str]] = {}
    for lost in outcome.skipped:
        reasons.setdefault(lost.labels[METHOD], {})[_place(lost.labels)] = lost.reason
    names = dict.fromkeys(
        name
        for places in (*found.values(), *reasons.values())
        for place in places
        for name in place
    )
    return [
        _matrix(method, tuple(names), found.get(method, {}), reasons.get(method, {}), metric)
        for method in dict.fromkeys([*found, *reasons])
    ]


def _place(labels: Mapping[str, Any]) -> tuple[str, str]:
    source, _, target = str(labels[PAIR]).partition(" -> ")
    return source, target


def _matrix(
    method: str,
    names: tuple[str, ...],
    found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    reasons: Mapping[tuple[str, str], str],
    metric: str,
) -> TransferMatrix:
    values: dict[tuple[str, str], float | None] = {}
    said = dict(reasons)
    for place, rows in found.items():
        known = [r["metrics"][metric] for r in rows if r.get("metrics")]
        scored = [value for value in known if value is not None]
        values[place] = statistics.fmean(scored) if scored else None
        errors = [row["error"] for row in rows if row.get("error")]
        if errors:
            said[place] = str(errors[0])
    counts = {len(rows) for rows in found.values()}
    seeds = f"{max(counts)} seed{'s' * (max(counts) > 1)}" if counts else "no run"
    return TransferMatrix(
        title=method,
        sources=names,
        targets=names,
        values=values,
        metric=metric,
        reasons=said,
        note=f"mean over {seeds}",
    )
