"""A healthy run and sweep as series of one sample a minute, and a planted fault for each alert."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cluster.monitoring.exported_metrics import RUN_STATES, SWEEP_STATES

__all__ = ["CASES", "HEALTHY", "MINUTES", "QUIET", "Case", "Series", "on_instance", "written"]

MINUTES = 150
Series = dict[str, Callable[[int], float | None]]  # selector -> value at a minute; None: gone
AT = 'job="img2shape", instance="a:9400"'


def run(name: str, labels: str = "") -> str:
    return f"img2shape_{name}{{run='r', {AT}{', ' + labels if labels else ''}}}".replace("'", '"')


def states(at: Callable[[int], str]) -> Series:
    """The series of the run's state, which is ``at(minute)``."""

    def of(state: str) -> Callable[[int], float]:
        return lambda minute: float(at(minute) == state)

    return {run("run_state", f'state="{state}"'): of(state) for state in RUN_STATES}


def steps(at: Callable[[int], tuple[float, float, float]]) -> Series:
    """The histogram; ``at(minute)``: steps until then that took 0.2 s and 0.6 s, seconds of all."""
    return {
        run("step_seconds_bucket", 'le="0.1"'): lambda minute: 0.0,
        run("step_seconds_bucket", 'le="0.25"'): lambda minute: at(minute)[0],
        run("step_seconds_bucket", 'le="0.5"'): lambda minute: at(minute)[0],
        run("step_seconds_bucket", 'le="1.0"'): lambda minute: sum(at(minute)[:2]),
        run("step_seconds_bucket", 'le="+Inf"'): lambda minute: sum(at(minute)[:2]),
        run("step_seconds_count"): lambda minute: sum(at(minute)[:2]),
        run("step_seconds_sum"): lambda minute: at(minute)[2],
    }


HEALTHY: Series = {
    **states(lambda minute: "training" if minute > 1 else "starting"),
    **steps(lambda minute: (300.0 * minute, 0.0, 60.0 * minute)),
    run("run_start_timestamp_seconds"): lambda minute: 0.0,
    run("last_step_timestamp_seconds"): lambda minute: 60.0 * minute,
    run("checkpoint_timestamp_seconds"): lambda minute: 600.0 * (minute // 10),
    run("phase_seconds_total", 'phase="start"'): lambda minute: 50.0,
    run("phase_seconds_total", 'phase="data"'): lambda minute: 6.0 * minute,
    run("phase_seconds_total", 'phase="forward"'): lambda minute: 54.0 * minute,
    run("nonfinite_total"): lambda minute: 0.0,
    run("restarts_total", 'reason="worker_death"'): lambda minute: float(minute >= 20),
    run("restarts_total", 'reason="hang"'): lambda minute: 0.0,
    run("rank_skew_ratio"): lambda minute: 0.1,
    run("pseudo_label_coverage_ratio"): lambda minute: 0.9 if minute > 10 else 0.2,
    run("discriminator_accuracy_ratio", 'discriminator="domain"'): lambda minute: 0.6,
    run("bad_samples"): lambda minute: 0.0,
    **{
        f'img2shape_sweep_cells{{sweep="s", state="{state}"}}': lambda minute: 0.0
        for state in SWEEP_STATES
    },
}


@dataclass(frozen=True)
class Case:
    """Series that differ from ``HEALTHY``.

    Attributes:
        fires_at: the first minute at which the alert fires, and it alone.
        shown: its value as the description has it.
        gone_at: from this minute on nothing is exported.
        over_at: a minute at which nothing fires any more; -1: not looked at.
    """

    planted: Series
    fires_at: int = -1
    shown: str = ""
    labels: Mapping[str, str] = field(default_factory=lambda: {"run": "r"})
    gone_at: int = MINUTES + 1
    over_at: int = -1

    @property
    def series(self) -> Series:
        if self.gone_at > MINUTES:
            return {**HEALTHY, **self.planted}
        everything = {**HEALTHY, **self.planted}
        return {name: _until(value, self.gone_at) for name, value in everything.items()}


def _until(value: Callable[[int], float | None], end: int) -> Callable[[int], float | None]:
    return lambda minute: value(minute) if minute < end else None


def _from(minute: int, value: float, before: float = 0.0) -> Callable[[int], float]:
    return lambda now: value if now >= minute else before


def on_instance(series: Series, instance: str, *, begin: int, end: int) -> Series:
    """The same series of another process, which lives from ``begin`` to ``end``."""

    def moved(value: Callable[[int], float | None]) -> Callable[[int], float | None]:
        return lambda minute: value(minute) if begin <= minute < end else None

    return {
        name.replace("a:9400", instance): moved(value)
        for name, value in series.items()
        if "a:9400" in name
    }


def written(value: Callable[[int], float | None]) -> str:
    """The samples in promtool's notation; the first missing one is Prometheus' stale marker."""
    samples, there = [], False
    for minute in range(MINUTES + 1):
        sample = value(minute)
        samples.append(("stale" if there else "_") if sample is None else repr(sample))
        there = sample is not None
    return " ".join(samples)


def ended(state: str) -> Series:
    return states(lambda minute: "training" if minute < 29 else state)


CASES: dict[str, Case] = {
    # Minute 10 + 15 minutes is not more than 15 minutes; minute 26 is, for one minute at 27.
    "Img2ShapeNoProgress": Case(
        {run("last_step_timestamp_seconds"): lambda minute: min(60.0 * minute, 600.0)},
        fires_at=27,
        shown="17m 0s",
    ),
    "Img2ShapeNonFinite": Case({run("nonfinite_total"): _from(30, 1)}, fires_at=30, over_at=46),
    "Img2ShapeRunFailed": Case(ended("failed"), fires_at=29, gone_at=30, over_at=46),
    "Img2ShapeExporterGone": Case(
        {}, fires_at=35, gone_at=30, labels={"run": "r", "job": "img2shape", "instance": "a:9400"}
    ),
    "Img2ShapeCheckpointTooOld": Case(
        {run("checkpoint_timestamp_seconds"): lambda minute: 600.0},
        fires_at=72,
        shown="1h 2m 0s",
    ),
    # The one restart of the healthy run at minute 20 is within the half hour.
    "Img2ShapeRestartStorm": Case(
        {run("restarts_total", 'reason="hang"'): lambda minute: (minute >= 40) + (minute >= 45.0)},
        fires_at=45,
        shown="3",
    ),
    # 27 s of each minute from 30 on: more than 30 % of ten minutes at 36, for ten minutes at 46.
    "Img2ShapeDataWait": Case(
        {
            run("phase_seconds_total", 'phase="data"'): lambda minute: (
                6.0 * min(minute, 30) + 27.0 * max(0, minute - 30)
            ),
            run("phase_seconds_total", 'phase="forward"'): lambda minute: (
                54.0 * min(minute, 30) + 33.0 * max(0, minute - 30)
            ),
        },
        fires_at=46,
        shown="45%",
    ),
    # From 90 on a third as many steps, 0.6 s each: they are most of ten minutes at 98.
    "Img2ShapeSlowSteps": Case(
        steps(lambda minute: (300.0 * min(minute, 90), 100.0 * max(0, minute - 90), 60.0 * minute)),
        fires_at=103,
        shown="4.254",
    ),
    "Img2ShapeRankSkew": Case(
        {run("rank_skew_ratio"): _from(30, 0.5, before=0.05)}, fires_at=46, shown="50%"
    ),
    "Img2ShapePseudoLabelCollapse": Case(
        {run("pseudo_label_coverage_ratio"): _from(30, 0.4, before=0.9)},
        fires_at=45,
        shown="40%",
    ),
    "Img2ShapeDiscriminatorWon": Case(
        {run("discriminator_accuracy_ratio", 'discriminator="domain"'): _from(30, 0.99)},
        fires_at=45,
        shown="99%",
        labels={"run": "r", "discriminator": "domain"},
    ),
    "Img2ShapeBadSamples": Case({run("bad_samples"): _from(30, 3)}, fires_at=31, shown="3"),
    "Img2ShapeSweepCellsFailed": Case(
        {'img2shape_sweep_cells{sweep="s", state="failed"}': lambda m: 2.0 if m == 30 else 0.0},
        fires_at=30,
        over_at=46,
        shown="2",
        labels={"sweep": "s"},
    ),
}

_SECOND = on_instance({**HEALTHY, **ended("finished")}, "b:9401", begin=25, end=30)
_NOT_STARTED = {
    run("last_step_timestamp_seconds"): lambda minute: -86400.0,  # of a call a day before
    run("checkpoint_timestamp_seconds"): lambda minute: -86400.0,
}

# Name -> series in which nothing fires at these minutes.
QUIET: dict[str, tuple[Series, tuple[int, ...]]] = {
    "a healthy run": (HEALTHY, (1, 12, 30, 60, 90, 120, 150)),
    "steps of two minutes": (
        Case(
            {
                **steps(lambda minute: (0.0, minute // 2, 60.0 * minute)),
                run("last_step_timestamp_seconds"): lambda minute: 600.0,
            }
        ).series,
        (30, 45),
    ),
    "a finished run": (Case(ended("finished"), gone_at=31).series, (35, 60, 100, 150)),
    "an interrupted run": (Case(ended("interrupted"), gone_at=31).series, (35, 60, 100)),
    "a run that has just begun over old files": ({**HEALTHY, **_NOT_STARTED}, (5, 14)),
    "idle after its end": (
        Case(
            {
                **ended("finished"),
                run("last_step_timestamp_seconds"): lambda minute: min(60.0 * minute, 1740.0),
                run("checkpoint_timestamp_seconds"): lambda minute: 600.0,
                run("rank_skew_ratio"): lambda minute: 0.5 if minute > 28 else 0.1,
            }
        ).series,
        (60, 100, 150),
    ),
    # It ended before it could know that somebody scrapes.
    "a run that was seen once": (on_instance(HEALTHY, "a:9400", begin=29, end=30), (35, 40)),
    # The first process was killed; its successor on another port finished.
    "a run that moved and ended": (
        {
            **Case({}, gone_at=24).series,
            **_SECOND,
            run("run_start_timestamp_seconds").replace("a:9400", "b:9401"): lambda minute: (
                1500.0 if 25 <= minute < 30 else None
            ),
        },
        (28, 40, 60, 85),
    ),
}
