"""The list of every metric that a run or a sweep exports.

A metric that is not in this list cannot be exported (:mod:`cluster.monitoring.families`). The
dashboards and alerts of ``k8s/monitoring`` and the tables of docs/guides/monitoring.md name these
metrics; tests compare them. Units are base units: seconds, bytes, ratios in [0, 1]. Label values
come from small closed sets, such as the streams, phases, loss terms and health signals of a run, so
that the number of series stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.watching import STEP_BUCKETS

RUN_STATES = ("starting", "waiting", "training", "finished", "interrupted", "failed")
SWEEP_STATES = ("pending", "running", "finished", "stopped", "failed", "skipped")


@dataclass(frozen=True)
class Metric:
    """One metric family.

    Attributes:
        name: name in Prometheus. Names of counters end in ``_total``.
        labels: label names beside ``run`` or ``sweep``, which every series has.
        of: what the series belong to; this is their first label.
        buckets: upper bounds of a histogram's buckets.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    of: Literal["run", "sweep"] = "run"
    buckets: tuple[float, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """All label names; the first is ``run`` or ``sweep``."""
        return (self.of, *self.labels)


METRICS = (
    # What runs.
    Metric(
        "img2shape_build_info",
        "gauge",
        "Versions of img2shape, Python, torch and Ray; always 1.",
        ("version", "python", "torch", "ray"),
    ),
    Metric(
        "img2shape_run_info",
        "gauge",
        "Method, data set, backbone, strategy and identity of the run; always 1.",
        ("method", "dataset", "backbone", "strategy", "identity"),
    ),
    Metric(
        "img2shape_run_state", "gauge", "1 for the state of the run, 0 for the others.", ("state",)
    ),
    Metric("img2shape_run_start_timestamp_seconds", "gauge", "Unix time of the command's start."),
    # Progress and loss.
    Metric("img2shape_step", "gauge", "Steps done: the position in the training."),
    Metric("img2shape_steps_planned", "gauge", "Steps of the whole training."),
    Metric(
        "img2shape_steps_total", "counter", "Steps that this command has done, repeated ones too."
    ),
    Metric(
        "img2shape_last_step_timestamp_seconds", "gauge", "Unix time of the end of the last step."
    ),
    Metric("img2shape_samples_total", "counter", "Samples that all ranks trained on.", ("stream",)),
    Metric("img2shape_loss", "gauge", "The weighted sum of the loss terms."),
    Metric("img2shape_loss_term", "gauge", "One term of the loss before its weight.", ("term",)),
    Metric("img2shape_gradient_norm", "gauge", "Norm of the whole gradient before clipping."),
    Metric("img2shape_learning_rate", "gauge", "The learning rate of the trunk."),
    Metric(
        "img2shape_nonfinite_total", "counter", "Losses or gradients that were NaN or infinite."
    ),
    # Adaptation health.
    Metric(
        "img2shape_center_drift",
        "gauge",
        "How far the class centres moved in the last step.",
        ("domain",),
    ),
    Metric("img2shape_domain_mmd", "gauge", "Squared MMD between the domains' features."),
    Metric(
        "img2shape_pseudo_label_coverage_ratio",
        "gauge",
        "Share of the classes that have a pseudo-label.",
    ),
    Metric(
        "img2shape_pseudo_label_agreement_ratio",
        "gauge",
        "Share of the samples whose pseudo-label is the same as the time before.",
    ),
    Metric(
        "img2shape_discriminator_accuracy_ratio",
        "gauge",
        "Accuracy of a domain discriminator; 0.5 means that the domains are confused.",
        ("discriminator",),
    ),
    Metric(
        "img2shape_gate_value",
        "gauge",
        "Value of a gate: how much of a stage's features it lets through.",
        ("gate",),
    ),
    Metric(
        "img2shape_health",
        "gauge",
        "Other health signals of the method, by their names in log.jsonl.",
        ("signal",),
    ),
    # Throughput and time budget.
    Metric(
        "img2shape_step_seconds",
        "histogram",
        "Duration of a step; logging, checkpoint and round count.",
        buckets=STEP_BUCKETS,
    ),
    Metric(
        "img2shape_phase_seconds_total",
        "counter",
        "Time of rank 0 in each phase; the phases sum to the wall-clock time.",
        ("phase",),
    ),
    Metric("img2shape_world_size", "gauge", "Number of processes that train."),
    Metric(
        "img2shape_rank_skew_ratio",
        "gauge",
        "Time the slowest rank spends on its own work / mean of all ranks - 1.",
    ),
    Metric("img2shape_shard_read_bytes_total", "counter", "Bytes that all ranks read from shards."),
    Metric(
        "img2shape_cache_bytes", "gauge", "Bytes of decoded samples in the memory of all ranks."
    ),
    # Reliability.
    Metric("img2shape_checkpoint_step", "gauge", "Step of the newest complete checkpoint."),
    Metric(
        "img2shape_checkpoint_timestamp_seconds", "gauge", "Unix time of the newest checkpoint."
    ),
    Metric("img2shape_checkpoint_bytes", "gauge", "Size of the newest checkpoint."),
    Metric(
        "img2shape_checkpoint_write_seconds",
        "gauge",
        "Time that writing the newest checkpoint took.",
    ),
    Metric(
        "img2shape_restarts_total",
        "counter",
        "Starts of the workers after the first one.",
        ("reason",),
    ),
    Metric("img2shape_bad_samples", "gauge", "Samples of the training data in quarantine."),
    Metric(
        "img2shape_evaluation_score",
        "gauge",
        "Scores of the last validation: retrieval metrics with target labels, criteria without.",
        ("metric",),
    ),
    Metric("img2shape_evaluation_step", "gauge", "Step of the last validation."),
    # Sweeps.
    Metric(
        "img2shape_sweep_cells", "gauge", "Number of cells in each state.", ("state",), of="sweep"
    ),
    Metric(
        "img2shape_sweep_start_timestamp_seconds",
        "gauge",
        "Unix time of the command's start.",
        of="sweep",
    ),
    Metric(
        "img2shape_sweep_cell_seconds_total",
        "counter",
        "Total wall-clock time of the cells that ended since the command started.",
        of="sweep",
    ),
    Metric(
        "img2shape_sweep_best_score",
        "gauge",
        "Best selected score among the finished cells.",
        ("metric",),
        of="sweep",
    ),
)


def metric(name: str) -> Metric:
    """The entry with this name.

    Raises:
        KeyError: no entry has this name.
    """
    return {m.name: m for m in METRICS}[name]
