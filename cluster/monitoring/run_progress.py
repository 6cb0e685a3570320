"""The first row of the dashboard of runs: what runs, how far it is, its losses and scores."""

from __future__ import annotations

from cluster.monitoring.exported_metrics import RUN_STATES
from cluster.monitoring.panels import Panel, Row
from cluster.monitoring.run_queries import latest, rate


def _state() -> str:
    """The position of the run's state in ``RUN_STATES``, counted from 1."""
    each = (
        f'{number} * img2shape_run_state{{run=~"$run", state="{state}"}}'
        for number, state in enumerate(RUN_STATES, 1)
    )
    return f"max by (run) ({' or '.join(each)})"


PROGRESS = Row(
    "Progress and loss",
    (
        Panel(
            "State",
            "none",
            (("{{run}}", _state()),),
            "state-timeline",
            "What each run does; a line that ends without an end state is a run that is gone.",
            width=12,
            states=RUN_STATES,
        ),
        Panel(
            "Done",
            "percentunit",
            (("{{run}}", f"{latest('step')} / {latest('steps_planned')}"),),
            "bargauge",
            "Steps done of the steps planned.",
            width=6,
        ),
        Panel(
            "Time left",
            "s",
            (
                (
                    "{{run}}",
                    f"({latest('steps_planned')} - {latest('step')}) / {rate('steps_total')}",
                ),
            ),
            "stat",
            "Steps left at the present pace.",
            width=6,
        ),
        Panel(
            "What runs",
            "none",
            (
                (
                    "{{run}}: {{method}} on {{dataset}}, {{backbone}}, {{strategy}}",
                    latest("run_info", "method", "dataset", "backbone", "strategy", "identity"),
                ),
            ),
            "stat",
            "Method, data set, backbone and strategy of each run.",
            name_only=True,
        ),
        Panel(
            "Versions",
            "none",
            (
                (
                    "{{run}}: {{version}}, Python {{python}}, torch {{torch}}, Ray {{ray}}",
                    latest("build_info", "version", "python", "torch", "ray"),
                ),
            ),
            "stat",
            "Of img2shape and of what each run runs on.",
            name_only=True,
        ),
        Panel(
            "Running for",
            "s",
            (("{{run}}", f"time() - {latest('run_start_timestamp_seconds')}"),),
            "stat",
            "Since the command began.",
        ),
        Panel(
            "Loss",
            "none",
            (("{{run}}", latest("loss")),),
            "timeseries",
            "The weighted sum of the terms.",
        ),
        Panel(
            "Loss terms",
            "none",
            (("{{run}} {{term}}", latest("loss_term", "term")),),
            "timeseries",
            "Each term before its weight.",
        ),
        Panel(
            "Evaluation",
            "none",
            (("{{run}} {{metric}}", latest("evaluation_score", "metric")),),
            "timeseries",
            "The last validation: retrieval metrics where target labels are known, criteria "
            "without labels otherwise.",
        ),
        Panel(
            "Gradient norm",
            "none",
            (("{{run}}", latest("gradient_norm")),),
            "timeseries",
            "Of the whole gradient, before clipping.",
            logarithmic=True,
        ),
        Panel(
            "Learning rate",
            "none",
            (("{{run}}", latest("learning_rate")),),
            "timeseries",
            "Of the trunk.",
        ),
        Panel(
            "Step",
            "short",
            (
                ("{{run}}", latest("step")),
                ("{{run}} evaluated", latest("evaluation_step")),
            ),
            "timeseries",
            "The position in the training, which falls back at a restart, and the step of the "
            "last validation.",
        ),
    ),
)
