"""The second row of the dashboard of runs: how the adaptation between the domains does."""

from __future__ import annotations

from cluster.monitoring.panels import Panel, Row
from cluster.monitoring.run_queries import latest

HEALTH = Row(
    "Adaptation health",
    (
        Panel(
            "Centre drift",
            "none",
            (("{{run}} {{domain}}", latest("center_drift", "domain")),),
            "timeseries",
            "How far the class centres move in a step: it should calm down.",
        ),
        Panel(
            "Distance of the domains",
            "none",
            (("{{run}}", latest("domain_mmd")),),
            "timeseries",
            "Squared MMD between source and target features: it should fall.",
        ),
        Panel(
            "Pseudo-labels",
            "percentunit",
            (
                ("{{run}} coverage", latest("pseudo_label_coverage_ratio")),
                ("{{run}} agreement", latest("pseudo_label_agreement_ratio")),
            ),
            "timeseries",
            "Share of the classes that some pseudo-label names, and share of the samples that "
            "keep theirs. Low coverage is a collapse on few classes.",
        ),
        Panel(
            "Discriminator accuracy",
            "percentunit",
            (
                (
                    "{{run}} {{discriminator}}",
                    latest("discriminator_accuracy_ratio", "discriminator"),
                ),
            ),
            "timeseries",
            "50 % is confusion of the domains, the aim; at 100 % the discriminator has won.",
        ),
        Panel(
            "Gates",
            "none",
            (("{{run}} {{gate}}", latest("gate_value", "gate")),),
            "timeseries",
            "How much of each stage's features a method lets through.",
        ),
        Panel(
            "Other signals",
            "none",
            (("{{run}} {{signal}}", latest("health", "signal")),),
            "timeseries",
            "What else the method says of itself, by the names of log.jsonl.",
        ),
    ),
)
