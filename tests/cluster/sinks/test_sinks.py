"""Reporting to TensorBoard, MLflow and Weights & Biases."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from cluster.sinks import sinks as sinks_module
from cluster.sinks.sinks import Sinks, open_sinks
from cluster.training import train_run
from tests.cluster.event_files import scalars
from tests.command import CONFIGS, call, small
from trainer.config import ConfigError, load_config
from trainer.runs.attempt import Start
from trainer.runs.records import StepLog
from trainer.runs.run_folder import RunFolder


class Recorder:
    """A sink that keeps what it is told, and breaks in the call it is told to."""

    def __init__(self, breaks: str = "") -> None:
        self.calls: list[tuple[str, Any]] = []
        self.breaks = breaks

    def _note(self, name: str, *told: Any) -> None:
        self.calls.append((name, *told))
        if name == self.breaks:
            raise OSError("no\nserver")

    def start(self, *, name: str, config: Any, resume_step: int) -> None:
        self._note("start", name, config, resume_step)

    def log(self, step: int, values: Any) -> None:
        self._note("log", step, dict(values))

    def finish(self, summary: Any) -> None:
        self._note("finish", dict(summary))

    @property
    def steps(self) -> list[tuple[int, str]]:
        """Step and the first name of what was logged."""
        return [(told[1], next(iter(told[2]))) for told in self.calls if told[0] == "log"]


class Run:
    """A run folder that is written like a training writes it."""

    def __init__(self, path) -> None:
        path.mkdir()
        self.folder = RunFolder(path)

    def begin(self, number: int, step: int) -> None:
        with (self.folder.path / "attempts.jsonl").open("a") as file:
            file.write(json.dumps(vars(Start(number, step, 1, "start"))) + "\n")
        for path, first in ((self.folder.log, step), (self.folder.validation, step + 1)):
            StepLog(path, from_step=first).close()

    def record(self, step: int, loss: float | None = None) -> None:
        record = {"step": step, "loss": loss or float(step), "terms": {"ce": 0.5}, "health": {}}
        self._write(self.folder.log, record)

    def score(self, step: int) -> None:
        self._write(self.folder.validation, {"step": step, "scores": {"mAP": 0.5, "E": None}})

    def _write(self, path, record) -> None:
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_every_line_comes_once_in_the_order_of_steps(run):
    sink = Recorder()
    told = Sinks({"one": sink}, run.folder)
    told.start({"training": {"steps": 9}})
    told.look()
    assert sink.calls == []  # nothing trains yet
    run.begin(1, 0)
    run.record(0)
    told.look()
    run.score(3)
    told.look()  # its record is to come
    run.record(2)
    run.record(3)
    told.look()
    told.look()
    run.score(5)
    told.finish("finished")
    assert sink.calls[0] == ("start", "run", {"training": {"steps": 9}}, 0)
    assert sink.steps == [
        (0, "loss"),
        (2, "loss"),
        (3, "validation/mAP"),
        (3, "loss"),
        (5, "validation/mAP"),
    ]
    assert sink.calls[1] == ("log", 0, {"loss": 0.0, "terms/ce": 0.5})
    assert sink.calls[-1] == ("finish", {"status": "finished", "validation/mAP": 0.5})


def test_a_half_written_line_waits(run):
    sink = Recorder()
    told = Sinks({"one": sink}, run.folder)
    told.start({})
    run.begin(1, 0)
    line = json.dumps({"step": 0, "loss": 1.0})
    with run.folder.log.open("a") as file:
        file.write(line[:9])
        file.flush()
        told.look()
        assert sink.steps == []
        file.write(line[9:] + "\n")
    told.look()
    assert sink.steps == [(0, "loss")]


def test_a_group_that_starts_again_logs_no_step_twice(run):
    sink = Recorder()
    told = Sinks({"one": sink}, run.folder)
    told.start({})
    run.begin(1, 0)
    for step in range(6):
        run.record(step)
    told.look()
    run.begin(2, 3)
    for step in range(3, 8):
        run.record(step)
    told.look()
    told.finish("finished")
    assert [step for step, _ in sink.steps] == list(range(8))


def test_a_sink_that_breaks_is_left_out_and_said_once(run, capfd):
    good, bad, worse = Recorder(), Recorder("log"), Recorder("start")
    told = Sinks({"bad": bad, "worse": worse, "good": good}, run.folder)
    told.start({})
    run.begin(1, 0)
    for step in range(4):
        run.record(step)
        told.look()
    told.finish("finished")
    assert (len(good.steps), len(bad.steps), worse.steps) == (4, 1, [])
    assert "finish" in [c[0] for c in good.calls]
    assert "finish" not in [c[0] for c in bad.calls]
    said = capfd.readouterr().err.splitlines()
    assert said == [
        "sink worse: left out from here on (OSError: no server); training goes on",
        "sink bad: left out from here on (OSError: no server); training goes on",
    ]


def test_unknown_and_absent_sinks_are_refused(tmp_path, monkeypatch, capfd):
    with pytest.raises(ConfigError, match="--sink tensorbord: unknown; did you mean 'tensorboard'"):
        open_sinks(["tensorbord"], tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="--sink wandb: needs `pip install wandb`"):
        open_sinks(["wandb"], tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def astn(benchmark):
    return lambda **more: load_config(
        CONFIGS / "astn.yaml", small(benchmark, validation__every=3, **more)
    )


def test_tensorboard_has_every_record_and_score(astn, benchmark, tmp_path, capfd):
    out = tmp_path / "run"
    arguments = small(benchmark, validation__every=3)
    done = call(
        capfd, "train", CONFIGS / "astn.yaml", *arguments, "--out", out, "--sink", "tensorboard"
    )
    assert done.code == 0, done.err
    drawn = scalars(out / "tensorboard")
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    scores = [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]
    assert len(records) == 6
    assert drawn["loss"] == [(r["step"], pytest.approx(r["loss"])) for r in records]
    for section in ("terms", "health"):
        for name, value in records[-1][section].items():
            assert drawn[f"{section}/{name}"][-1] == (5, pytest.approx(value))
    assert [step for step, _ in drawn["learning_rate"]] == list(range(6))
    assert drawn["validation/mAP"] == [
        (s["step"], pytest.approx(s["scores"]["mAP"])) for s in scores
    ]


def test_a_continued_run_draws_no_line_twice(astn, tmp_path, monkeypatch):
    config, out = astn(), tmp_path / "run"
    kept = Sinks.look

    def killed(self: Sinks, *, last: bool = False) -> None:
        kept(self, last=last)
        if self._log.step == 4 and not last:
            raise ZeroDivisionError("killed after step 4, its checkpoint is of step 3")

    monkeypatch.setattr(sinks_module.Sinks, "look", killed)
    with pytest.raises(ZeroDivisionError):
        train_run(config, out, workers=0, sinks=["tensorboard"])
    monkeypatch.setattr(sinks_module.Sinks, "look", kept)
    assert len(scalars(out / "tensorboard")["loss"]) == 5
    train_run(config, out, workers=0, sinks=["tensorboard"])
    assert len(list((out / "tensorboard").glob("events.*"))) == 2
    drawn = scalars(out / "tensorboard")
    assert [step for step, _ in drawn["loss"]] == list(range(6))
    assert [step for step, _ in drawn["validation/mAP"]] == [3, 6]


def test_a_sink_that_comes_late_gets_the_lines_before(run):
    told = Sinks({}, run.folder)
    run.begin(1, 0)
    for step in range(4):
        run.record(step)
    run.score(3)
    told = open_sinks(["tensorboard"], run.folder.path)
    told.start({"a": 1})
    run.begin(2, 3)
    run.record(3)
    run.record(4)
    told.finish("finished")
    drawn = scalars(run.folder.path / "tensorboard")
    assert [step for step, _ in drawn["loss"]] == [0, 1, 2, 3, 4]
    assert [step for step, _ in drawn["validation/mAP"]] == [3]


def test_mlflow_keeps_each_step_once(run, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    from mlflow.tracking import MlflowClient

    for number in (1, 2):
        told = open_sinks(["mlflow"], run.folder.path)
        told.start({"training": {"steps": 8}, "method": {"name": "astn"}})
        run.begin(number, 3 * (number - 1))
        for step in range(3 * (number - 1), 3 + 2 * number):
            run.record(step)
        run.score(3)
        told.finish("interrupted" if number == 1 else "finished")
    facts = json.loads((run.folder.path / "mlflow.json").read_text())
    client = MlflowClient(tracking_uri=facts["uri"])
    found = client.get_run(facts["run"])
    assert found.info.status == "FINISHED"
    assert found.data.params["training.steps"] == "8"
    history = client.get_metric_history(facts["run"], "loss")
    assert sorted((m.step, m.value) for m in history) == [(n, float(n)) for n in range(7)]
    assert len(client.get_metric_history(facts["run"], "validation/mAP")) == 1


def test_wandb_works_offline_and_sends_each_step_once(run, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    sent: list[tuple[int, dict[str, float]]] = []
    kept = wandb.sdk.wandb_run.Run.log

    def log(self, data, step=None, **options):
        sent.append((step, data))
        return kept(self, data, step=step, **options)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    for number in (1, 2):
        told = open_sinks(["wandb"], run.folder.path)
        told.start({"training": {"steps": 8}})
        run.begin(number, 3 * (number - 1))
        for step in range(3 * (number - 1), 3 + 2 * number):
            run.record(step)
        told.finish("finished")
    assert [step for step, values in sent if "loss" in values] == list(range(7))
    assert list((run.folder.path / "wandb").glob("offline-run-*"))
