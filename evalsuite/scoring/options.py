"""The options of an evaluation, checked, and the variant each headline number is."""

from __future__ import annotations

from dataclasses import dataclass

from evalsuite.scoring.arithmetic import ARITHMETICS
from evalsuite.scoring.canonical_distances import FEATURES, METRICS
from evalsuite.vectors import EvaluationError

HEADLINES = ("NN", "FT", "ST", "F", "E", "DCG", "ANMRR", "AUC", "mAP")
LOWER_IS_BETTER = frozenset({"ANMRR"})

_CHOICES: dict[str, tuple[str, ...]] = {
    "protocol": ("mi3dor", "shrec"),
    "features": FEATURES,
    "metric": METRICS,
    "arithmetic": tuple(ARITHMETICS),
    "dcg": (
        "protocol",
        "trunc_psb",
        "trunc_rank2",
        "trunc_log2p1",
        "full_psb",
        "full_log2p1",
    ),
    "anmrr": ("tier", "window", "mpeg7"),
    "f_average": ("pooled", "query", "class"),
    "average": ("query", "class"),
    "ties": ("index", "expected"),
    "nan_policy": ("raise", "last"),
    "on_missing": ("exclude", "error"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to score; every field is recorded in the result.

    Raises ``EvaluationError`` naming the option for a value that is not a choice.
    """

    protocol: str = "mi3dor"
    """``mi3dor``: ST at 2n-1, DCG over n ranks, pooled PR curve. ``shrec``: ST at 2n, DCG over the
    whole list, PR curve at 20 recall levels."""
    features: str = "raw"
    """``raw``, ``l2`` (unit length), or ``clamp-l2`` (MI3DOR's script: clamp at 0, unit length)."""
    metric: str = "euclidean"
    """``euclidean`` or ``cosine``."""
    arithmetic: str = "exact"
    """``exact``: the same bits on every machine. ``float32``: several times faster, the same bits
    for any cut into shards, blocks or workers on one kind of machine."""
    dcg: str = "protocol"
    """Which DCG is the headline; ``protocol`` is trunc_psb for mi3dor and full_psb for shrec."""
    anmrr: str = "tier"
    """Which ANMRR is the headline."""
    f_average: str = "pooled"
    """F at 20: ``pooled`` over queries, mean per ``query``, or mean of F pooled per ``class``."""
    average: str = "query"
    """Mean over queries, or over class means, for the headline per-query metrics."""
    ties: str = "index"
    """Equal distances: lower gallery ``index`` first, or ``expected`` value over random orders."""
    nan_policy: str = "raise"
    """NaN or Inf vectors: ``raise``, or ``last`` (behind all, irrelevant items first)."""
    on_missing: str = "exclude"
    """Queries whose class is not in the gallery: leave out of every mean, or ``error``."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise EvaluationError(f"{name}={value!r}: expected one of {', '.join(choices)}")

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
            "mAP": "mAP",
        }
        if self.average == "class":
            names = {name: f"{variant}_class_mean" for name, variant in names.items()}
        f_names: dict[str, str] = {
            "pooled": "F_pooled",
            "query": "F_query_mean",
            "class": "F_class",
        }
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
        return {**columns, "AP": "AP"}
