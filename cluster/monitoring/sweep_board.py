"""The dashboard of sweeps: cells by state, pace, best scores."""

from __future__ import annotations

from cluster.monitoring.panels import Annotation, Board, Panel, Row

OF = '{sweep=~"$sweep"}'
RATE = "[$__rate_interval]"
ENDED = '{sweep=~"$sweep", state=~"finished|stopped|failed|skipped"}'
FAILED = '{sweep=~"$sweep", state="failed"}'
LEFT = '{sweep=~"$sweep", state=~"pending|running"}'
CELLS = "img2shape_sweep_cells"

PROGRESS = Row(
    "Cells",
    (
        Panel(
            "Cells by state",
            "short",
            (("{{sweep}} {{state}}", f"max by (sweep, state) ({CELLS}{OF})"),),
            "timeseries",
            "What each sweep has, had and will have in work.",
            width=12,
            stacked=True,
        ),
        Panel(
            "Done",
            "percentunit",
            (("{{sweep}}", f"sum by (sweep) ({CELLS}{ENDED}) / sum by (sweep) ({CELLS}{OF})"),),
            "bargauge",
            "Cells that ended, in whatever way, of all.",
            width=6,
        ),
        Panel(
            "Failed",
            "short",
            (("{{sweep}}", f"sum by (sweep) ({CELLS}{FAILED})"),),
            "stat",
            "img2shape ledger show KEY tells why.",
            width=6,
        ),
        Panel(
            "Best score",
            "none",
            (
                (
                    "{{sweep}} {{metric}}",
                    "max by (sweep, metric) (img2shape_sweep_best_score" + OF + ")",
                ),
            ),
            "timeseries",
            "The best selected score among the finished cells.",
            width=12,
        ),
        Panel(
            "Running for",
            "s",
            (
                (
                    "{{sweep}}",
                    f"time() - max by (sweep) (img2shape_sweep_start_timestamp_seconds{OF})",
                ),
            ),
            "stat",
            "Since the command began.",
            width=6,
        ),
        Panel(
            "Time left",
            "s",
            (
                (
                    "{{sweep}}",
                    f"sum by (sweep) ({CELLS}{LEFT}) / sum by (sweep) (deriv({CELLS}{ENDED}[1h]))",
                ),
            ),
            "stat",
            "Cells left at the pace of the last hour; infinite while none has ended.",
            width=6,
        ),
    ),
)

PACE = Row(
    "Pace",
    (
        Panel(
            "Work done",
            "s",
            (
                (
                    "{{sweep}}",
                    f"sum by (sweep) (img2shape_sweep_cell_seconds_total{OF})",
                ),
            ),
            "timeseries",
            "Wall-clock seconds of all cells that ended in this call.",
            width=12,
        ),
        Panel(
            "Cells at a time",
            "short",
            (
                (
                    "{{sweep}}",
                    f'max by (sweep) ({CELLS}{{sweep=~"$sweep", state="running"}})',
                ),
            ),
            "timeseries",
            "Cells that train now.",
            width=12,
        ),
    ),
)

SWEEP_BOARD = Board(
    name="sweep",
    uid="img2shape-sweep",
    title="img2shape: sweeps",
    description="Sweeps: cells by state, pace, best scores.",
    variable="sweep",
    of_metric=CELLS,
    rows=(PROGRESS, PACE),
    annotations=(
        Annotation(
            "Failed cells",
            f"max by (sweep) (changes({CELLS}{FAILED}{RATE})) > 0",
            "{{sweep}}: a cell failed",
            "red",
        ),
    ),
)
