"""The command line itself: help, usage errors, what goes to which stream."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from cluster.terminal import stop_signals
from evalsuite.scoring import HEADLINES
from tests.command import CONFIGS, call, outcome, process, small, wait_until
from trainer.runs.checkpoint import newest_checkpoint

COMMANDS = (
    *("demo", "real", "data", "train", "eval", "metrics", "compare", "report", "model", "methods"),
    *("verify", "index", "search"),
)


def test_help_lists_the_commands_and_train_shows_an_example(capfd):
    overview = call(capfd, "--help")
    assert (overview.code, overview.err) == (0, "")
    assert all(f" {command} " in overview.out for command in COMMANDS)
    train = call(capfd, "train", "--help").out
    assert "Example: img2shape train configs/" in train
    assert "--workers" in train
    assert "runs/<method>-<identity>" in train


def test_every_command_explains_itself(capfd):
    for command in [*COMMANDS, "data make"]:
        shown = call(capfd, *command.split(), "--help")
        assert shown.code == 0
        assert "Usage" in shown.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], ["Missing command", "img2shape --help"]),
        (["trian"], ["trian", "img2shape --help"]),
        (["train"], ["Missing argument", "config", "img2shape train --help"]),
        (["train", "a.yaml", "--worker", "2"], ["--worker", "--workers"]),
        (["train", "a.yaml", "--workers", "-1"], ["--workers", "1-4"]),
        (["train", "a.yaml", "--workers", "two"], ["--workers", "1-4"]),
        (["metrics", "--queries", "q.parquet"], ["--gallery", "img2shape metrics --help"]),
        (["eval", "run", "--shards", "0"], ["--shards"]),
        (["report"], ["runs", "img2shape report --help"]),
        (["data"], ["Missing command", "img2shape data --help"]),
        (["data", "make", "shapenet", "--out", "x"], ["shapenet", "procedural"]),
        (["data", "make", "procedural"], ["--out"]),
        (["data", "make", "procedural", "--out", "x", "--size", "huge"], ["huge", "smoke"]),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(arguments, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    done = call(capfd, *arguments)
    assert all(word in done.complaint for word in told), done.complaint
    assert done.out == ""
    assert not list(tmp_path.iterdir())


def test_help_does_not_wait_for_torch():
    code = "import sys, cluster.cli.app; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_failure_of_the_program_is_exit_code_1(tmp_path, monkeypatch, capfd):
    def broken(*_args, **_options):
        raise ZeroDivisionError("a\nfault")

    monkeypatch.setattr("cluster.evaluation.write_report", broken)
    done = call(capfd, "report", tmp_path)
    assert done.code == 1
    assert done.err == "img2shape: ZeroDivisionError: a fault (IMG2SHAPE_DEBUG=1 shows where)\n"
    monkeypatch.setenv("IMG2SHAPE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        call(capfd, "report", tmp_path)


def test_stdout_is_one_object_whatever_libraries_print(tmp_path, monkeypatch, capfd):
    def noisy(*_args, **_options):
        print("python prints")
        os.system("echo a child prints")
        return {"parameters": 1}

    monkeypatch.setattr("cluster.complexity.model_complexity", noisy)
    done = call(capfd, "model", CONFIGS / "astn.yaml", *small(tmp_path), "--json")
    assert done.json == {"parameters": 1}
    assert "python prints" in done.err
    assert "a child prints" in done.err


def test_model_warns_of_a_trunk_without_its_weights(tmp_path, capfd, caplog):
    large = [*small(tmp_path, network__backbone="resnet18"), "network.image_size=32"]
    done = call(capfd, "model", CONFIGS / "astn.yaml", *large, "--json")
    assert done.json["trunks"][0]["weights"] == "none"
    assert caplog.text.count("network.weights: none trains resnet18 from scratch") == 1
    assert "network.weights=imagenet; see docs/guides/weights.md" in caplog.text


@pytest.mark.parametrize("quick", [True, False])
def test_a_quick_demo_says_that_its_numbers_mean_nothing(quick, tmp_path, monkeypatch, capfd):
    """On the terminal and in the report's title; training and scoring are left out here."""
    titles = []
    for name in ("make_benchmark", "train_run"):
        monkeypatch.setattr(f"cluster.cli.demo.{name}", lambda *_args, **_options: None)
    monkeypatch.setattr("cluster.cli.demo.ray_session", contextlib.nullcontext)
    scores = dict.fromkeys(HEADLINES, 0.5) | {"n_queries": 1, "n_gallery": 1, "protocol": "mi3dor"}
    monkeypatch.setattr("cluster.cli.demo.evaluate_run", lambda *_args, **_options: scores)
    monkeypatch.setattr("cluster.cli.demo.print_metrics", lambda _results: None)
    monkeypatch.setattr(
        "cluster.cli.demo.write_report", lambda _runs, out, *, title: (titles.append(title), out)[1]
    )
    done = call(capfd, "demo", "--out", tmp_path, *(["--quick"] if quick else []))
    assert done.code == 0
    assert ("the numbers mean nothing" in titles[0]) == quick
    assert ("its numbers mean nothing" in done.out + done.err) == quick


def test_as_a_process_of_its_own(tmp_path):
    """What a shell sees: codes and streams, with everything that other libraries may write."""
    absent = [CONFIGS / "astn.yaml", *small(tmp_path / "absent", data__num_classes=3)]
    good = process("model", *absent, "--json")
    bad = process("train", *absent, "--out", tmp_path / "run")
    usage = process("train")
    done = outcome(good)
    assert done.json["parameters"] > 1000
    assert done.err == ""
    for running in (bad, usage):
        done = outcome(running)
        assert done.complaint
        assert done.out == ""
    assert not list(tmp_path.iterdir())


def test_ctrl_c_saves_and_the_same_command_ends_like_an_uninterrupted_run(
    benchmark, tmp_path, capfd
):
    """To the bit, with augmentation, dropout and adaptive optimiser state."""
    settings = {"training__steps": 60, "training__checkpoint_every": 1000}
    train = ["train", CONFIGS / "astn.yaml", *small(benchmark, **settings), "--out"]
    run, log = tmp_path / "run", tmp_path / "run" / "log.jsonl"
    running = process(*train, run)
    wait_until(lambda: log.exists() and log.read_text().count("\n") > 2, running)
    os.killpg(running.pid, signal.SIGINT)
    stopped = outcome(running)
    assert (stopped.code, stopped.out) == (130, ""), stopped.err
    assert stopped.err.splitlines()[-1].startswith("img2shape: interrupted; ")
    assert stopped.err.count("img2shape: ") == 1
    assert "Traceback" not in stopped.err
    kept = newest_checkpoint(run / "checkpoints")
    assert kept is not None
    assert 2 < kept.step < 60

    assert call(capfd, *train, run).code == 0
    assert call(capfd, *train, tmp_path / "whole").code == 0
    ours, theirs = (newest_checkpoint(tmp_path / r / "checkpoints") for r in ("run", "whole"))
    assert ours is not None
    assert theirs is not None
    assert ours.step == theirs.step == 60
    for name, value in ours.state["method"].items():
        assert torch.equal(value, theirs.state["method"][name]), name


def test_a_signal_that_a_launcher_repeats_counts_once(monkeypatch):
    """Ctrl-C under torchrun reaches a worker twice; a second Ctrl-C of the user means "now"."""
    with stop_signals.stop_on_signal() as stopped:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stopped.is_set()
        monkeypatch.setattr(stop_signals, "SAME_SIGNAL_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_while_making_data_leaves_no_data_set_and_the_next_call_finishes(
    benchmark, tmp_path, monkeypatch, capfd
):
    """Most of the pictures are there already, so that this takes seconds."""
    out = tmp_path / "data"
    shutil.copytree(benchmark / "raw", out / "raw")
    stamp = json.loads((out / "raw" / "procedural.json").read_text())
    (out / "raw" / "procedural.json").write_text(json.dumps({**stamp, "complete": False}))
    photos = sorted((out / "raw" / "image").rglob("*.jpg"))[:100]
    for photo in photos:
        photo.unlink()
    make = ["data", "make", "procedural", "--size", "smoke", "--out", out]
    running = process(*make, "--workers", 2)
    wait_until(lambda: any(photo.exists() for photo in photos), running)
    os.killpg(running.pid, signal.SIGINT)
    stopped = outcome(running)
    assert (stopped.code, stopped.out) == (130, ""), stopped.err
    assert stopped.err.splitlines()[-1].startswith("img2shape: interrupted; ")
    assert "Traceback" not in stopped.err
    assert [p.name for p in out.iterdir()] == ["raw"]
    train = ["train", CONFIGS / "astn.yaml", *small(out), "--out", tmp_path / "run"]
    assert "no data set" in call(capfd, *train).complaint

    def interrupted(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # now while packing
        patch.setattr("dataio.packing.records_to_shards.write_manifest", interrupted)
        assert call(capfd, *make, "--workers", 1).code == 130
    assert not (out / "manifest.parquet").exists()
    assert not list(out.glob(".packing-*"))
    assert call(capfd, *make, "--workers", 1).code == 0
    for file in benchmark.glob("*.*"):
        if file.name != ".inputs":  # has the times of the raw files
            assert (out / file.name).read_bytes() == file.read_bytes(), file.name
