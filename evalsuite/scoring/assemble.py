"""The queries that are scored, and the one Evaluation from the tallies of all tie rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa

from evalsuite.scoring.options import Options
from evalsuite.scoring.result import Curves, Evaluation
from evalsuite.scoring.tally import Tally, curve_ranks, mean
from evalsuite.scoring.tie_rules import TieReport, tie_report, tie_warning
from evalsuite.vectors import EvaluationError

# Ranks and the entries of counts are int32.
MOST_ITEMS = 2**31 - 1
_NAMED = 5  # classes in a message


@dataclass(frozen=True, eq=False)
class Population:
    """The queries that are evaluated, and their classes in the gallery.

    ``keys``, ``labels`` of all queries; ``rows`` int64 [Q], the evaluated ones in query order;
    ``sizes`` int64 [Q], their numbers of relevant items; ``classes`` their sorted class names and
    ``class_ids`` int64 [Q]; ``largest_class`` over the whole gallery, whose classes are
    ``gallery_classes``. ``missing_labels`` are those of queries without a relevant item.
    """

    keys: Sequence[str]
    labels: Sequence[str]
    rows: np.ndarray
    sizes: np.ndarray
    classes: tuple[str, ...]
    class_ids: np.ndarray
    missing_labels: tuple[str, ...]
    gallery_size: int
    largest_class: int
    gallery_classes: tuple[str, ...] = ()


def population(
    held: Sequence[dict[str, Any]],
    keys: Sequence[str],
    labels: Sequence[str],
    on_missing: str,
    *,
    without_self: bool = False,
) -> Population:
    """The queries with ``keys`` and ``labels`` against shards that describe themselves as ``held``.

    An empty label is no class. With ``without_self`` each query is in the gallery and does not
    count there.

    Raises ``EvaluationError``: a class without items under ``on_missing="error"``, no query left,
    or more items than ranks can count.
    """
    class_sizes: dict[str, int] = {}
    for shard in held:
        for label, count in zip(shard["labels"], shard["counts"], strict=True):
            class_sizes[label] = class_sizes.get(label, 0) + int(count)
    own = int(without_self)
    found = {x: max(0, class_sizes.get(x, 0) - own) if x.strip() else 0 for x in set(labels)}
    sizes = np.array([found[label] for label in labels], dtype=np.int64)
    rows = np.flatnonzero(sizes)
    missing = tuple(sorted(label for label, size in found.items() if not size))
    if missing and on_missing == "error":
        raise EvaluationError(
            f"classes without a gallery item: {_with_nearest(missing, class_sizes)}; "
            "add items or pass on_missing='exclude'"
        )
    if not len(rows):
        raise EvaluationError(
            f"no query has an{'other' * own} item of its class in the gallery (query classes "
            f"{missing[:3]}, gallery classes {tuple(sorted(class_sizes)[:3])}); check the label "
            "names"
        )
    total = sum(class_sizes.values()) - own
    require_countable(total)
    classes, class_ids = np.unique(np.asarray(labels, dtype=str)[rows], return_inverse=True)
    return Population(
        keys=keys,
        labels=labels,
        rows=rows,
        sizes=sizes[rows],
        classes=tuple(str(name) for name in classes),
        class_ids=class_ids,
        missing_labels=missing,
        gallery_size=total,
        largest_class=max(class_sizes.values()) - own,
        gallery_classes=tuple(sorted(class_sizes)),
    )


def require_countable(items: int) -> None:
    """Raise ``EvaluationError`` for a gallery of more ``items`` than ranks can count."""
    if items > MOST_ITEMS:
        raise EvaluationError(
            f"the gallery holds {items} items, {MOST_ITEMS} are the most; score parts of it"
        )


def assemble(
    options: Options,
    people: Population,
    tallies: dict[str, Tally],
    *,
    levels: np.ndarray,
    curve_hits: np.ndarray,
    tied: int,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Headline, variants, bounds over ties, curves and tables.

    ``tallies`` by tie rule; ``levels`` float64 [Q, 20] is interpolated precision per query,
    ``curve_hits`` int32 [Q, P] relevant items within the ranks kept of the curve; ``tied`` counts
    relevant pairs that share their distance with an irrelevant item; ``notes`` are more warnings.
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
        warnings=(*notes, *_warnings(options, people, ties)),
    )


def _with_nearest(names: Sequence[str], known: Iterable[str]) -> str:
    """The first names, those in a row with one nearest known name followed by it."""
    spelt = {name.strip().casefold(): name for name in known if name.strip()}

    def nearest(name: str) -> str:
        close = get_close_matches(name.strip().casefold(), spelt, n=1)
        return f" (did you mean {spelt[close[0]]!r}?)" if close and name not in known else ""

    groups = groupby(names[:_NAMED], key=nearest)
    shown = [", ".join(map(repr, group)) + hint for hint, group in groups]
    more = len(names) - _NAMED
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


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
    nameless = sum(not label.strip() for label in people.labels)
    if nameless:
        messages.append(f"{nameless} queries left out: their label is empty")
    missing = len(people.labels) - len(people.rows) - nameless
    if missing:
        named = [label for label in people.missing_labels if label.strip()]
        listed = _with_nearest(named, people.gallery_classes)
        messages.append(f"{missing} queries left out: no gallery item of class {listed}")
    if people.largest_class == 1:
        messages.append("every class has one gallery item: read AUC_anchored instead of AUC")
    return messages
