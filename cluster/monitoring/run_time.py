"""The third row of the dashboard of runs: how fast it is and where the time goes."""

from __future__ import annotations

from cluster.monitoring.panels import Panel, Row
from cluster.monitoring.run_queries import OF, RATE, latest, rate


def _step_quantile(quantile: str) -> str:
    buckets = rate("step_seconds_bucket", "le")
    return f"histogram_quantile({quantile}, {buckets})"


TIME = Row(
    "Throughput and time budget",
    (
        Panel(
            "Step time",
            "s",
            (("{{le}}", f"sum by (le) (rate(img2shape_step_seconds_bucket{OF}{RATE}))"),),
            "heatmap",
            "How long steps take, with what comes with them: log, checkpoint, round.",
        ),
        Panel(
            "Step time, median and 95 %",
            "s",
            (
                ("{{run}} median", _step_quantile("0.5")),
                ("{{run}} 95 %", _step_quantile("0.95")),
            ),
            "timeseries",
            "As close as the histogram's bounds allow.",
        ),
        Panel(
            "Where the time goes",
            "percentunit",
            (("{{run}} {{phase}}", rate("phase_seconds_total", "phase")),),
            "timeseries",
            "Seconds of rank 0 by phase in each second; they sum to 1.",
            stacked=True,
        ),
        Panel(
            "Samples",
            "none",
            (("{{run}} {{stream}}", rate("samples_total", "stream")),),
            "timeseries",
            "Samples a second of all ranks, by stream.",
        ),
        Panel(
            "Steps",
            "none",
            (("{{run}}", rate("steps_total")),),
            "timeseries",
            "Steps a second, repeated ones included.",
        ),
        Panel(
            "Rank skew",
            "percentunit",
            (("{{run}}", latest("rank_skew_ratio")),),
            "timeseries",
            "How much more time than the mean the slowest rank needs for its own work.",
        ),
        Panel(
            "Shards read",
            "Bps",
            (("{{run}}", rate("shard_read_bytes_total")),),
            "timeseries",
            "Bytes a second of all ranks; near 0 once samples are cached.",
        ),
        Panel(
            "Cache",
            "bytes",
            (("{{run}}", latest("cache_bytes")),),
            "timeseries",
            "Decoded samples in memory, all ranks.",
        ),
        Panel(
            "Workers",
            "short",
            (("{{run}}", latest("world_size")),),
            "timeseries",
            "Processes that train.",
        ),
    ),
)
