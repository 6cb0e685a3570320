"""Every metric that a run or a sweep exports, in one place.

The exporter makes its series from this list, panels and alerts name its entries, and
docs/monitoring.md prints it. Units are base units (seconds, bytes, ratios in [0, 1]). Label values
come from small closed sets: the streams, phases, terms and health signals of one run.
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
        name: as Prometheus shows it; counters end in ``_total``.
        labels: names beside ``run`` or ``sweep``, which every series has.
        of: what a series belongs to, and so the first label.
        buckets: upper bounds of a histogram.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    of: Literal["run", "sweep"] = "run"
    buckets: tuple[float, ...] = ()

    @property
    def label_names(self) -> tuple[str, ...]:
        """All labels, the owner first."""
        return (self.of, *self.labels)


METRICS = (
    # What runs.
    Metric(
        "img2shape_build_info",
        "gauge",
        "Versions that run; always 1.",
        ("version", "python", "torch", "ray"),
    ),
    Metric(
        "img2shape_run_info",
        "gauge",
        "What the run is; always 1.",
        ("method", "dataset", "backbone", "strategy", "identity"),
    ),
    Metric("img2shape_run_state", "gauge", "1 for the state the run is in, else 0.", ("state",)),
    Metric("img2shape_run_start_timestamp_seconds", "gauge", "When this call began, Unix time."),
    # Progress and loss.
    Metric("img2shape_step", "gauge", "Steps done: the position in the training."),
    Metric("img2shape_steps_planned", "gauge", "Steps of the whole training."),
    Metric("img2shape_steps_total", "counter", "Steps worked, repeated ones included."),
    Metric("img2shape_last_step_timestamp_seconds", "gauge", "When a step ended last, Unix time."),
    Metric("img2shape_samples_total", "counter", "Samples trained on, all ranks.", ("stream",)),
    Metric("img2shape_loss", "gauge", "The weighted sum of the loss terms."),
    Metric("img2shape_loss_term", "gauge", "One term of the loss, not weighted.", ("term",)),
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
        "Share of the classes that some pseudo-label has.",
    ),
    Metric(
        "img2shape_pseudo_label_agreement_ratio",
        "gauge",
        "Share of samples whose pseudo-label is that of the last time.",
    ),
    Metric(
        "img2shape_discriminator_accuracy_ratio",
        "gauge",
        "How often a domain discriminator is right; 0.5 is confusion.",
        ("discriminator",),
    ),
    Metric("img2shape_gate_value", "gauge", "A gate's value.", ("gate",)),
    Metric(
        "img2shape_health",
        "gauge",
        "A method's other health signals, by the name they have in log.jsonl.",
        ("signal",),
    ),
    # Throughput and time budget.
    Metric(
        "img2shape_step_seconds",
        "histogram",
        "How long steps take, log, checkpoint and round included.",
        buckets=STEP_BUCKETS,
    ),
    Metric(
        "img2shape_phase_seconds_total",
        "counter",
        "Where rank 0's time goes; the phases sum to the wall clock.",
        ("phase",),
    ),
    Metric("img2shape_world_size", "gauge", "Processes that train."),
    Metric(
        "img2shape_rank_skew_ratio",
        "gauge",
        "How much more time than the mean the slowest rank spends on its own work.",
    ),
    Metric("img2shape_shard_read_bytes_total", "counter", "Bytes read of shards, all ranks."),
    Metric("img2shape_cache_bytes", "gauge", "Bytes of decoded samples in memory, all ranks."),
    # Reliability.
    Metric("img2shape_checkpoint_step", "gauge", "Step of the newest whole checkpoint."),
    Metric("img2shape_checkpoint_timestamp_seconds", "gauge", "When it was complete, Unix time."),
    Metric("img2shape_checkpoint_bytes", "gauge", "Its size."),
    Metric("img2shape_checkpoint_write_seconds", "gauge", "How long writing it took."),
    Metric("img2shape_restarts_total", "counter", "Starts after the first one.", ("reason",)),
    Metric("img2shape_bad_samples", "gauge", "Samples of the training data in quarantine."),
    Metric(
        "img2shape_evaluation_score",
        "gauge",
        "The last validation: retrieval metrics (with target labels) and criteria (without).",
        ("metric",),
    ),
    Metric("img2shape_evaluation_step", "gauge", "The step it was made at."),
    # Sweeps.
    Metric("img2shape_sweep_cells", "gauge", "Cells by state.", ("state",), of="sweep"),
    Metric(
        "img2shape_sweep_start_timestamp_seconds",
        "gauge",
        "When this call began, Unix time.",
        of="sweep",
    ),
    Metric(
        "img2shape_sweep_cell_seconds_total",
        "counter",
        "Wall-clock seconds of the cells that ended in this call.",
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
    """The entry of this name.

    Raises:
        KeyError: there is none.
    """
    return {m.name: m for m in METRICS}[name]
