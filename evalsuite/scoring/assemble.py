"""From the tallies of all tie rules to one Evaluation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from evalsuite.scoring.options import Options
from evalsuite.scoring.population import Population
from evalsuite.scoring.result import Curves, Evaluation
from evalsuite.scoring.tally import Tally, curve_ranks, mean
from evalsuite.scoring.tie_rules import TieReport, tie_report, tie_warning


def assemble(
    options: Options,
    people: Population,
    tallies: dict[str, Tally],
    *,
    levels: np.ndarray,
    curve_hits: np.ndarray,
    tied: int,
) -> Evaluation:
    """Headline, variants, bounds over ties, curves and tables.

    ``tallies`` by tie rule; ``levels`` float64 [Q, 20] is interpolated precision per query,
    ``curve_hits`` int32 [Q, P] relevant items within the ranks kept of the curve; ``tied`` counts
    relevant pairs that share their distance with an irrelevant item.
    """
    variants = {rule: tally.variants() for rule, tally in tallies.items()}
    headlines = {
        rule: {
            name: values[variant] for name, variant in options.headline_variants(ties=rule).items()
        }
        for rule, values in variants.items()
    }
    ties = tie_report(options, headlines, tied=tied, pairs=int(people.sizes.sum()))
    main = tallies[options.ties]
    return Evaluation(
        options=options,
        headline=headlines[options.ties],
        headline_variants=options.headline_variants(ties=options.ties),
        variants=variants[options.ties],
        n_queries=len(people.labels),
        n_evaluated=len(people.rows),
        n_gallery=people.gallery_size,
        n_max=people.largest_class,
        missing_labels=people.missing_labels,
        ties=ties,
        per_class=_per_class(options, people, main),
        curves=_curves(main, levels, people.gallery_size),
        per_query=_per_query(options, people, main),
        curve_hits=curve_hits,
        f_hits=main.f_hits,
        warnings=tuple(_warnings(options, people, ties)),
    )


def _curves(tally: Tally, levels: np.ndarray, gallery_size: int) -> Curves:
    recall, precision = tally.curve()
    taking_part = ~np.isnan(levels)
    interpolated = np.array([mean(levels[taking_part[:, j], j]) for j in range(levels.shape[1])])
    every_rank = np.arange(1, gallery_size + 1)
    return Curves(every_rank, recall, precision, interpolated, curve_ranks(gallery_size))


def _per_class(options: Options, people: Population, tally: Tally) -> list[dict[str, Any]]:
    means, f_values = tally.class_means(), tally.class_f()
    queries = np.bincount(people.class_ids)
    rows = []
    for c, label in enumerate(people.classes):
        first = int(np.argmax(people.class_ids == c))
        row: dict[str, Any] = {
            "label": label,
            "n_queries": int(queries[c]),
            "n_relevant": int(people.sizes[first]),
            "F": float(f_values[c]),
        }
        for column, variant in options.per_query_variants().items():
            row["mAP" if column == "AP" else column] = float(means[variant][c])
        rows.append(row)
    return rows


def _per_query(options: Options, people: Population, tally: Tally) -> pa.Table:
    total = len(people.labels)
    sizes = np.zeros(total, dtype=np.int64)
    sizes[people.rows] = people.sizes
    columns: dict[str, Any] = {
        "key": pa.array(people.keys, type=pa.string()),
        "label": pa.array(people.labels, type=pa.string()),
        "n_relevant": sizes,
    }
    for column, variant in options.per_query_variants().items():
        values = np.zeros(total)
        values[people.rows] = tally.values[variant]
        columns[column] = pa.array(values, mask=sizes == 0)
    recorded = {"protocol": options.protocol, "ties": options.ties}
    return pa.table(columns).replace_schema_metadata({**recorded, **options.per_query_variants()})


def _warnings(options: Options, people: Population, ties: TieReport) -> list[str]:
    about_ties = tie_warning(options, ties)
    messages = [] if about_ties is None else [about_ties]
    missing = len(people.labels) - len(people.rows)
    if missing:
        messages.append(
            f"{missing} queries left out: no gallery item of {len(people.missing_labels)} classes"
        )
    if people.largest_class == 1:
        messages.append("every class has one gallery item: read AUC_anchored instead of AUC")
    return messages
