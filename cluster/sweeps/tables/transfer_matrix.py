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
Pair = tuple[str, str]
"""Source and target."""


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
    tree = {
        "name": name,
        "config": config,
        "set": dict(keys),
        "axes": {METHOD: list(methods), PAIR: pairs, SEED: list(range(seeds))},
        "selection": selection,
    }
    return validated(Sweep, tree, where="matrix")


def transfer_matrices(outcome: Outcome, *, metric: str = "mAP") -> list[TransferMatrix]:
    """A matrix for each method, in order: mean over seeds of the selected checkpoint's metric."""
    labels = [*(row["cell"] for row in outcome.rows), *(lost.labels for lost in outcome.skipped)]
    names = tuple(dict.fromkeys(name for one in labels for name in _pair(one)))
    found = []
    for method in dict.fromkeys(one[METHOD] for one in labels):
        rows: dict[Pair, list[Mapping[str, Any]]] = {}
        for row in outcome.rows:
            if row["cell"][METHOD] == method:
                rows.setdefault(_pair(row["cell"]), []).append(row)
        skipped = {
            _pair(lost.labels): lost.reason
            for lost in outcome.skipped
            if lost.labels[METHOD] == method
        }
        errors = {
            pair: str(row["error"])
            for pair, own in rows.items()
            for row in reversed(own)  # the first error stays
            if row.get("error")
        }
        seeds = max(map(len, rows.values()), default=0)
        words = f"{seeds} seed{'s' * (seeds > 1)}" if seeds else "no run"
        found.append(
            TransferMatrix(
                title=method,
                sources=names,
                targets=names,
                values={pair: _mean(own, metric) for pair, own in rows.items()},
                metric=metric,
                reasons={**skipped, **errors},
                note=f"mean over {words}",
            )
        )
    return found


def _pair(labels: Mapping[str, Any]) -> Pair:
    source, _, target = str(labels[PAIR]).partition(" -> ")
    return source, target


def _mean(rows: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    values = [row["metrics"][metric] for row in rows if row.get("metrics")]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
