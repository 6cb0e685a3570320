"""The rules for items at equal distances from a query, and what these ties could change.

- ``index``: the item with the lower gallery index comes first. The default of every result.
- ``optimistic``: relevant items come first.
- ``pessimistic``: irrelevant items come first.
- ``expected``: the mean over all orders of the equal items, in closed form
  (``relevant_ranks.add_expected``).

A tie group is a set of items at one distance that holds relevant and irrelevant ones. Only such
groups make a difference between the rules.
"""

from __future__ import annotations

from dataclasses import dataclass

from evalsuite.scoring.options import Options

TIE_RULES = ("index", "optimistic", "pessimistic", "expected")
INDEX, OPTIMISTIC, PESSIMISTIC, EXPECTED = range(len(TIE_RULES))  # rows of arrays by tie rule

# Three counts give the rank of a relevant item under every rule. They are the rows of an array
# int32 [3, M]: the items strictly nearer than it, those nearer or equally far, and those ordered
# before it by (distance, gallery index).
NEARER, NEARER_OR_EQUAL, BEFORE = range(3)

# Chance ties of float32 distances stay well below this share in galleries of some 100,000 items.
WARNING_SHARE = 0.1


@dataclass(frozen=True)
class TieReport:
    """What equal distances could change.

    ``pairs`` and ``share`` count the relevant (query, item) pairs whose distance equals that of an
    item of another class, as a number and as a part of all relevant pairs. If there are any,
    ``headlines`` holds the headline under each of the other rules.
    """

    pairs: int
    share: float
    headlines: dict[str, dict[str, float]]


def tie_report(
    options: Options, headlines: dict[str, dict[str, float]], *, tied: int, pairs: int
) -> TieReport:
    """The report of ``tied`` of ``pairs`` relevant pairs; ``headlines`` are by tie rule."""
    others: dict[str, dict[str, float]] = {}
    for rule, values in headlines.items():
        if tied and rule != options.ties:
            named = dict(values)
            if rule == "expected":
                named["AUC_of_expected_curve"] = named.pop("AUC")
            others[rule] = named
    return TieReport(pairs=tied, share=tied / pairs, headlines=others)


def tie_warning(options: Options, ties: TieReport) -> str | None:
    """A sentence for the reader where more relevant items tie than chance explains."""
    if ties.share <= WARNING_SHARE:
        return None
    return (
        f"{ties.share:.1%} of relevant items tie with an irrelevant one; the order among equal "
        f"distances is {'the gallery order' if options.ties == 'index' else 'averaged out'}: "
        "read the bounds in tie_report"
    )
