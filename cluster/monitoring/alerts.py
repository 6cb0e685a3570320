"""What is worth waking somebody for, as Prometheus alerting rules.

Rates and ages are compared over minutes, so that one slow step says nothing. Every rule keeps the
label ``namespace`` where Prometheus has given one (on Kubernetes), so that alerts find their owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

NO_PROGRESS_SECONDS = 900
"""No step for so long and for `SLOW_STEP_FACTOR` mean steps: long steps are no hang."""
SLOW_STEP_FACTOR = 20
DATA_WAIT_RATIO = 0.3
"""Share of the time after start-up that waits for data; above it the loader is the bottleneck."""
SLOW_STEPS_RATIO = 2.0
"""Median step of ten minutes against that of the hour before."""
RANK_SKEW_RATIO = 0.3
"""The slowest rank's own work against the mean: what all others wait for in each step."""
CHECKPOINT_AGE_SECONDS = 3600
"""Work that a crash would lose."""
RESTARTS = 3
"""Restarts in half an hour; `training.max_failures` ends a call at three deaths by default."""
COVERAGE_RATIO = 0.5
"""Share of the classes that pseudo-labels name; below it they collapse on few classes."""
DISCRIMINATOR_RATIO = 0.95
"""0.5 is confusion; a discriminator that is always right gives no gradient worth following."""

RUN = "(namespace, run)"
CALL = "(namespace, run, job, instance)"
SWEEP = "(namespace, sweep)"

_IDLE = (
    f"time() - max by {RUN} ({{__name__=~"
    '"img2shape_last_step_timestamp_seconds|img2shape_run_start_timestamp_seconds"})'
)
_UNSAVED = (
    f"time() - max by {RUN} ({{__name__=~"
    '"img2shape_checkpoint_timestamp_seconds|img2shape_run_start_timestamp_seconds"})'
)
_MEAN_STEP = (
    f"sum by {RUN} (img2shape_step_seconds_sum) / sum by {RUN} (img2shape_step_seconds_count)"
)
_TRAINING = f'and on {RUN} max by {RUN} (img2shape_run_state{{state="training"}}) == 1'
# Whoever was scraped twice waits for a third time when it ends, so its last state is seen.
_SEEN = f'max by {CALL} (count_over_time(img2shape_run_state{{state="training"}}[1h])) > 1'
_STARTED = f"max by {CALL} (last_over_time(img2shape_run_start_timestamp_seconds[1h]))"


def _median_step(window: str) -> str:
    return (
        "histogram_quantile(0.5, sum by (namespace, run, le) "
        f"(rate(img2shape_step_seconds_bucket{window})))"
    )


@dataclass(frozen=True)
class Alert:
    """One alerting rule.

    Attributes:
        measured: PromQL of the number that is judged, and shown as ``$value``.
        condition: its comparison, as ``> 0.3``.
        also: further clauses, each ``and on (labels) ...`` or ``unless on (labels) ...``.
        holds_for: how long it must hold, as Prometheus writes durations.
        description: Prometheus' template, with the value.
        runbook: one line: what to do.
    """

    name: str
    measured: str
    condition: str
    holds_for: str
    severity: Literal["critical", "warning"]
    summary: str
    description: str
    runbook: str
    also: tuple[str, ...] = ()

    @property
    def expression(self) -> str:
        """The whole rule in PromQL."""
        return "\n".join((f"({self.measured}) {self.condition}", *self.also))

    def rule(self) -> dict[str, Any]:
        """As Prometheus and a PrometheusRule write it."""
        return {
            "alert": self.name,
            "expr": self.expression,
            "for": self.holds_for,
            "labels": {"severity": self.severity},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook": self.runbook,
            },
        }


RUN_ALERTS = (
    Alert(
        "Img2ShapeNoProgress",
        _IDLE,
        f"> {NO_PROGRESS_SECONDS}",
        "1m",
        "critical",
        "{{ $labels.run }} makes no progress",
        "No step of {{ $labels.run }} has ended for {{ $value | humanizeDuration }}.",
        "Look at the phase that grows in the time budget, then at <run>/hangs; a validation or a "
        "round of that length is the other cause. End the command and give it again: it goes on.",
        (f"unless on {RUN} {_IDLE} < {SLOW_STEP_FACTOR} * {_MEAN_STEP}", _TRAINING),
    ),
    Alert(
        "Img2ShapeNonFinite",
        f"sum by {RUN} (increase(img2shape_nonfinite_total[15m]))",
        "> 0",
        "0m",
        "critical",
        "{{ $labels.run }} met NaN or infinity",
        "A loss or gradient of {{ $labels.run }} was not finite in the last 15 minutes.",
        "The error names term, step, rank and samples: look at those samples, lower the learning "
        "rate or that term's weight, or train in float32.",
    ),
    Alert(
        "Img2ShapeRunFailed",
        f'max by {RUN} (max_over_time(img2shape_run_state{{state="failed"}}[15m]))',
        "> 0",
        "0m",
        "critical",
        "{{ $labels.run }} failed",
        "{{ $labels.run }} ended with an error in the last 15 minutes.",
        "Read the last line of the command's output; once its cause is mended, the same command "
        "continues at the newest checkpoint.",
    ),
    Alert(
        "Img2ShapeExporterGone",
        f"max by {CALL} "
        '(last_over_time(img2shape_run_state{state=~"starting|waiting|training"}[1h]))',
        "== 1",
        "5m",
        "critical",
        "{{ $labels.run }} is gone",
        "{{ $labels.run }} on {{ $labels.instance }} was at work when it was last seen, has no "
        "metrics now and did not say that it ended.",
        "See whether the process, pod or node lives (killed for memory, preempted); if it does "
        "not, the same command continues; if it does, see why its port is not scraped.",
        (
            f"and on {CALL} {_STARTED} == on {RUN} group_left () max by {RUN} ({_STARTED})",
            f"and on {CALL} {_SEEN}",
            f"unless on {RUN} max by {RUN} (img2shape_run_state)",
        ),
    ),
    Alert(
        "Img2ShapeCheckpointTooOld",
        _UNSAVED,
        f"> {CHECKPOINT_AGE_SECONDS}",
        "1m",
        "warning",
        "{{ $labels.run }} has not saved for long",
        "A crash of {{ $labels.run }} would lose {{ $value | humanizeDuration }} of work.",
        "Lower training.checkpoint_every; if it is low, see how long a checkpoint takes to write "
        "and whether the run folder's disk is full or slow.",
        (_TRAINING,),
    ),
    Alert(
        "Img2ShapeRestartStorm",
        f"sum by {RUN} (increase(img2shape_restarts_total[30m]))",
        f">= {RESTARTS}",
        "0m",
        "critical",
        "{{ $labels.run }} restarts again and again",
        "The workers of {{ $labels.run }} were started {{ $value | humanize }} more times in "
        "30 minutes.",
        "Compare the reasons in the panel and in <run>/attempts.jsonl: worker_death is mostly "
        "memory (lower training.batch or cache), hang has stacks in <run>/hangs.",
    ),
    Alert(
        "Img2ShapeDataWait",
        f'sum by {RUN} (rate(img2shape_phase_seconds_total{{phase="data"}}[10m])) / '
        f'sum by {RUN} (rate(img2shape_phase_seconds_total{{phase!="start"}}[10m]))',
        f"> {DATA_WAIT_RATIO}",
        "10m",
        "warning",
        "{{ $labels.run }} waits for data",
        "{{ $value | humanizePercentage }} of the time of {{ $labels.run }} after start-up is "
        "waiting for data.",
        "Raise training.loader_workers, or keep decoded samples with training.cache; a remote "
        "data.root is faster copied to a local disk.",
    ),
    Alert(
        "Img2ShapeSlowSteps",
        f"{_median_step('[10m]')} / {_median_step('[1h] offset 10m')}",
        f"> {SLOW_STEPS_RATIO:g}",
        "5m",
        "warning",
        "Steps of {{ $labels.run }} became slow",
        "The median step of {{ $labels.run }} takes {{ $value | humanize }} times as long as in "
        "the hour before.",
        "See which phase has grown: data (disk, network), forward (a throttled or shared GPU, "
        "busy cores), collectives (the network or one slow rank).",
        (_TRAINING,),
    ),
    Alert(
        "Img2ShapeRankSkew",
        f"max by {RUN} (avg_over_time(img2shape_rank_skew_ratio[10m]))",
        f"> {RANK_SKEW_RATIO}",
        "10m",
        "warning",
        "One rank of {{ $labels.run }} holds up the others",
        "The slowest rank of {{ $labels.run }} needs {{ $value | humanizePercentage }} more time "
        "than the mean for its own work.",
        "Find the slow node (another job on it, a throttled GPU, a slow disk) and drain it: the "
        "group saves and continues without it.",
        (_TRAINING,),
    ),
    Alert(
        "Img2ShapePseudoLabelCollapse",
        f"max by {RUN} (img2shape_pseudo_label_coverage_ratio)",
        f"< {COVERAGE_RATIO}",
        "15m",
        "warning",
        "Pseudo-labels of {{ $labels.run }} collapse",
        "Pseudo-labels of {{ $labels.run }} name only {{ $value | humanizePercentage }} of the "
        "classes.",
        "Lower the weights of the adaptation terms (`img2shape methods METHOD` names them); if "
        "the scores fell too, evaluate an earlier checkpoint with --select im.",
        (_TRAINING,),
    ),
    Alert(
        "Img2ShapeDiscriminatorWon",
        "max by (namespace, run, discriminator) (img2shape_discriminator_accuracy_ratio)",
        f"> {DISCRIMINATOR_RATIO}",
        "15m",
        "warning",
        "A discriminator of {{ $labels.run }} has won",
        "Discriminator {{ $labels.discriminator }} of {{ $labels.run }} is right in "
        "{{ $value | humanizePercentage }} of the cases: the domains are not confused.",
        "Raise the weight of the adversarial term (`img2shape methods METHOD` names it), or lower "
        "optimizer.learning_rate; a domain gap that no trunk can close looks like this too.",
        (_TRAINING,),
    ),
    Alert(
        "Img2ShapeBadSamples",
        f"max by {RUN} (img2shape_bad_samples)",
        "> 0",
        "1m",
        "warning",
        "{{ $labels.run }} trains without its bad samples",
        "{{ $value | humanize }} samples of the data of {{ $labels.run }} are in quarantine.",
        "img2shape data verify names them and says what is wrong; --repair, or pack them again.",
    ),
)

SWEEP_ALERTS = (
    Alert(
        "Img2ShapeSweepCellsFailed",
        f'max by {SWEEP} (max_over_time(img2shape_sweep_cells{{state="failed"}}[15m]))',
        "> 0",
        "0m",
        "warning",
        "Cells of sweep {{ $labels.sweep }} failed",
        "{{ $value | humanize }} cells of sweep {{ $labels.sweep }} have failed.",
        "img2shape ledger show KEY has the error; the same sweep with --resume tries them again.",
    ),
)

ALERTS = RUN_ALERTS + SWEEP_ALERTS


def rule_groups() -> list[dict[str, Any]]:
    """The ``groups`` of a Prometheus rule file, and of a PrometheusRule's ``spec``."""
    return [
        {"name": "img2shape-runs", "rules": [a.rule() for a in RUN_ALERTS]},
        {"name": "img2shape-sweeps", "rules": [a.rule() for a in SWEEP_ALERTS]},
    ]


def alert_rules() -> str:
    """A rule file for Prometheus' ``rule_files``, in YAML."""
    return yaml.safe_dump({"groups": rule_groups()}, sort_keys=False, width=10_000)
