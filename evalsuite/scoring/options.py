"""The options of an evaluation: their names, choices and defaults stand here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from evalsuite.scoring.metrics import AP_CUT
from evalsuite.vectors import EvaluationError

HEADLINES = ("NN", "FT", "ST", "F", "E", "DCG", "ANMRR", "AUC", "mAP")
LOWER_IS_BETTER = frozenset({"ANMRR"})

ProtocolName = Literal["mi3dor", "shrec"]
FeaturesName = Literal["raw", "clamp-l2", "l2"]
MetricName = Literal["euclidean", "cosine"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to score. The result records every field.

    Raises ``EvaluationError`` that names the option for a value that is not a choice.
    """

    protocol: ProtocolName = "mi3dor"
    """``mi3dor``: ST at 2n-1, DCG over n ranks, pooled PR curve. ``shrec``: ST at 2n, DCG over the
    whole list, PR curve at 20 recall levels."""
    features: FeaturesName = "raw"
    """``raw``, ``l2`` (unit length), or ``clamp-l2`` (MI3DOR's script: clamp at 0, unit length)."""
    metric: MetricName = "euclidean"
    """``euclidean`` or ``cosine``."""
    arithmetic: Literal["exact", "float32"] = "exact"
    """``exact``: the same bits on every machine. ``float32``: several times faster, the same bits
    for any cut into shards, blocks or workers on one kind of machine."""
    dcg: Literal[
        "protocol", "trunc_psb", "trunc_rank2", "trunc_log2p1", "full_psb", "full_log2p1"
    ] = "protocol"
    """Which DCG is the headline. ``protocol`` is trunc_psb for mi3dor and full_psb for shrec."""
    anmrr: Literal["tier", "window", "mpeg7"] = "tier"
    """Which ANMRR is the headline."""
    f_average: Literal["pooled", "query", "class"] = "pooled"
    """F at 20: ``pooled`` over queries, mean per ``query``, or mean of F pooled per ``class``."""
    map_cut: int | None = None
    """mAP over the first so many shapes retrieved; None: over the whole list."""
    average: Literal["query", "class"] = "query"
    """Mean over queries, or over class means, for the headline per-query metrics."""
    ties: Literal["index", "expected"] = "index"
    """Rank of equal distances, see ``tie_rules``: the lower gallery ``index`` first, or the
    ``expected`` value over random orders."""
    nan_policy: Literal["raise", "last"] = "raise"
    """NaN or Inf vectors: ``raise``, or ``last`` (behind all others, irrelevant items first)."""
    on_missing: Literal["exclude", "error"] = "exclude"
    """Queries whose class is not in the gallery: leave them out of every mean, or ``error``."""

    def __post_init__(self) -> None:
        for name in CHOICES:
            require_choice(name, getattr(self, name))
        cut = self.map_cut
        if cut is not None and (isinstance(cut, bool) or not isinstance(cut, int) or cut < 1):
            raise EvaluationError(f"map_cut={cut!r}: give a number of 1 or more, or None")

    @property
    def ap_cut(self) -> int:
        """Ranks that count in the variant ``mAP_retrieved``."""
        return AP_CUT if self.map_cut is None else self.map_cut

    @property
    def space(self) -> dict[str, Any]:
        """How two vectors are compared: ``features`` and ``metric``."""
        return {"features": self.features, "metric": self.metric}

    @property
    def shard_options(self) -> dict[str, Any]:
        """What a gallery shard is built with: the space and the arithmetic."""
        return {**self.space, "arithmetic": self.arithmetic}

    def headline_variants(self, *, ties: str) -> dict[str, str]:
        """The variant behind each headline name, under tie rule ``ties``."""
        protocol_dcg = "trunc_psb" if self.protocol == "mi3dor" else "full_psb"
        names = {
            "NN": "NN",
            "FT": "FT",
            "ST": "ST_2n_minus_1" if self.protocol == "mi3dor" else "ST_2n",
            "E": "E",
            "DCG": f"DCG_{protocol_dcg if self.dcg == 'protocol' else self.dcg}",
            "ANMRR": f"ANMRR_{self.anmrr}",
            "mAP": "mAP" if self.map_cut is None else "mAP_retrieved",
        }
        if self.average == "class":
            names = {name: f"{variant}_class_mean" for name, variant in names.items()}
        f_names = {"pooled": "F_pooled", "query": "F_query_mean", "class": "F_class"}
        names["F"] = f_names[self.f_average]
        # The area under the expected curve is not the expectation of the area.
        names["AUC"] = "AUC_of_expected_curve" if ties == "expected" else "AUC"
        return {name: names[name] for name in HEADLINES}

    def per_query_variants(self) -> dict[str, str]:
        """Column of the per-query table to entry of ``metrics.PER_QUERY``."""
        headline = Options(
            protocol=self.protocol, dcg=self.dcg, anmrr=self.anmrr
        ).headline_variants(ties="index")
        columns = {name: headline[name] for name in ("NN", "FT", "ST", "E", "DCG", "ANMRR")}
        return {**columns, "AP": "AP" if self.map_cut is None else "AP_retrieved"}


_TYPES = get_type_hints(Options)
CHOICES: dict[str, tuple[str, ...]] = {
    f.name: get_args(_TYPES[f.name])
    for f in fields(Options)
    if get_origin(_TYPES[f.name]) is Literal
}
"""The values of each option that is a choice."""


def require_choice(name: str, value: str) -> None:
    """Raise ``EvaluationError`` if ``value`` is not a value of the option ``name``."""
    if value not in CHOICES[name]:
        raise EvaluationError(f"{name}={value!r}: expected one of {', '.join(CHOICES[name])}")
