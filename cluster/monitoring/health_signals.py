"""Under which metric each health signal of ``log.jsonl`` is shown.

Signals that several methods have, and that alerts look at, have metrics of their own; the others
share one, with the signal's name as a label.
"""

from __future__ import annotations

from collections.abc import Mapping

_ALONE = {
    "gradient_norm": "img2shape_gradient_norm",
    "domain_mmd": "img2shape_domain_mmd",
    "pseudo_label_coverage": "img2shape_pseudo_label_coverage_ratio",
    "pseudo_label_agreement": "img2shape_pseudo_label_agreement_ratio",
}
_DRIFT, _ACCURACY, _GATE = "_center_drift", "discriminator_accuracy", "gate_"
_LABELLED = (
    "img2shape_center_drift",
    "img2shape_discriminator_accuracy_ratio",
    "img2shape_gate_value",
    "img2shape_health",
)
Series = list[tuple[dict[str, str], float]]


def health_series(health: Mapping[str, float]) -> dict[str, Series]:
    """Metric name -> its series as (labels, value); a metric without a signal has none."""
    found: dict[str, Series] = {name: [] for name in (*_ALONE.values(), *_LABELLED)}
    for signal, value in health.items():
        name, labels = _place(signal)
        found[name].append((labels, value))
    return found


def _place(signal: str) -> tuple[str, dict[str, str]]:
    if signal in _ALONE:
        return _ALONE[signal], {}
    if signal.endswith(_DRIFT):
        return "img2shape_center_drift", {"domain": signal.removesuffix(_DRIFT)}
    if signal.endswith(_ACCURACY):
        # A method's only discriminator tells the domains apart and has no name of its own.
        name = signal.removesuffix(_ACCURACY).rstrip("_") or "domain"
        return "img2shape_discriminator_accuracy_ratio", {"discriminator": name}
    if signal.startswith(_GATE):
        return "img2shape_gate_value", {"gate": signal.removeprefix(_GATE)}
    return "img2shape_health", {"signal": signal}
