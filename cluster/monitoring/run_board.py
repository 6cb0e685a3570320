"""The dashboard of runs: progress and loss, adaptation health, time budget, reliability."""

from __future__ import annotations

from cluster.monitoring.panels import Annotation, Board
from cluster.monitoring.run_health import HEALTH
from cluster.monitoring.run_progress import PROGRESS
from cluster.monitoring.run_queries import OF, RATE
from cluster.monitoring.run_reliability import RELIABILITY
from cluster.monitoring.run_time import TIME

RUN_BOARD = Board(
    name="run",
    uid="img2shape-run",
    title="img2shape: runs",
    description="Trainings: progress and loss, adaptation health, time budget, reliability.",
    variable="run",
    of_metric="img2shape_run_state",
    rows=(PROGRESS, HEALTH, TIME, RELIABILITY),
    annotations=(
        Annotation(
            "Restarts",
            f"max by (run, reason) (changes(img2shape_restarts_total{OF}{RATE})) > 0",
            "{{run}}: workers restarted, {{reason}}",
            "red",
        ),
        Annotation(
            "Checkpoints",
            f"max by (run) (changes(img2shape_checkpoint_step{OF}{RATE})) > 0",
            "{{run}}: checkpoint",
            "blue",
        ),
        Annotation(
            "Evaluations",
            f"max by (run) (changes(img2shape_evaluation_step{OF}{RATE})) > 0",
            "{{run}}: evaluated",
            "green",
        ),
    ),
)
