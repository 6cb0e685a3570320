"""The fourth row of the dashboard of runs: what it would lose, what it has survived."""

from __future__ import annotations

from cluster.monitoring.panels import Panel, Row
from cluster.monitoring.run_queries import OF, latest

RELIABILITY = Row(
    "Reliability",
    (
        Panel(
            "Since the last step",
            "s",
            (("{{run}}", f"time() - {latest('last_step_timestamp_seconds')}"),),
            "timeseries",
            "Grows in a long validation, and without end in a run that hangs.",
        ),
        Panel(
            "Checkpoint age",
            "s",
            (("{{run}}", f"time() - {latest('checkpoint_timestamp_seconds')}"),),
            "timeseries",
            "Work that a crash now would lose.",
        ),
        Panel(
            "Steps since the checkpoint",
            "short",
            (("{{run}}", f"{latest('step')} - {latest('checkpoint_step')}"),),
            "timeseries",
            "Steps that a crash now would repeat.",
        ),
        Panel(
            "Checkpoint writing",
            "s",
            (("{{run}}", latest("checkpoint_write_seconds")),),
            "timeseries",
            "How long the last one took, beside the training.",
        ),
        Panel(
            "Checkpoint size",
            "bytes",
            (("{{run}}", latest("checkpoint_bytes")),),
            "timeseries",
            "Of the newest one.",
        ),
        Panel(
            "Restarts",
            "short",
            (("{{run}} {{reason}}", f"sum by (run, reason) (img2shape_restarts_total{OF})"),),
            "timeseries",
            "Starts of the workers after the first one, by reason.",
            stacked=True,
        ),
        Panel(
            "Not finite",
            "short",
            (("{{run}}", f"sum by (run) (img2shape_nonfinite_total{OF})"),),
            "stat",
            "Losses or gradients that were NaN or infinite.",
            width=12,
        ),
        Panel(
            "Bad samples",
            "short",
            (("{{run}}", latest("bad_samples")),),
            "stat",
            "Samples of the training data in quarantine.",
            width=12,
        ),
    ),
)
