"""A sweep that is killed on its way, and one whose trials' processes die."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.data_jobs import make_benchmark
from cluster.ledger.store import ledger_at
from tests.command import CONFIGS, outcome, process, wait_until
from tests.faults.job import descendants

pytestmark = [pytest.mark.ray, pytest.mark.faults]

SECONDS = 900  # of a whole sweep, on two busy cores


def grid(file: Path, data: Path, methods: list[str]) -> Path:
    """Methods x 2 transfer pairs x 2 backbones x 2 seeds, a few steps each."""
    other = data.with_name("procedural-smoke-b")
    make_benchmark(other, size="smoke", seed=0, style="b")
    tree = {
        "name": "killed",
        "config": str(CONFIGS / "{method}.yaml"),
        "set": {
            "transfer.protocol": "inductive",
            "transfer.classes": ["chair", "sofa"],
            "network.image_size": 64,
            "data.train_views": 1,
            "data.num_classes": None,
            "training.steps": 4,
            "training.batch": 6,
            "training.checkpoint_every": 2,
            "training.precision": "float32",
        },
        "axes": {
            "method": methods,
            "transfer": [f"{data} -> {other}", f"{other} -> {data}"],
            "network.backbone": ["tiny", "resnet18"],
            "training.seed": [0, 1],
        },
        "oracle": False,
        "reports": False,
    }
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    return file


def rows(store: Path) -> list[dict[str, Any]]:
    return ledger_at(store).rows()


def starts(store: Path) -> dict[str, int]:
    """How often the run of each recorded cell was started, by key."""
    counts = {}
    for row in rows(store):
        lines = (store / row["run"] / "attempts.jsonl").read_text().splitlines()
        counts[row["key"]] = len(lines)
    return counts


def kill(running: subprocess.Popen[str]) -> None:
    """SIGKILL to the command alone; Ray's processes notice by themselves."""
    left = descendants(running.pid).keys()
    running.kill()
    running.communicate(timeout=60)
    for _ in range(300):
        if not any(Path(f"/proc/{pid}").exists() for pid in left):
            return
        time.sleep(0.5)
    raise AssertionError(f"still there: {[pid for pid in left if Path(f'/proc/{pid}').exists()]}")


def test_a_sweep_killed_twice_runs_no_cell_again(benchmark, tmp_path):
    store, methods = tmp_path / "store", ["source-only", "dann", "astn"]
    file = grid(tmp_path / "grid.yaml", benchmark, methods)
    command = ("sweep", file, "--store", store, "--json", "--max-concurrent", 2)
    for least in (5, 13):
        running = process(*command)
        wait_until(lambda least=least: len(rows(store)) >= least, running, seconds=SECONDS)
        kill(running)
    recorded = starts(store)
    assert len(recorded) >= 13
    done = outcome(process(*command), timeout_seconds=SECONDS)
    result = done.json
    assert len(result["rows"]) == 24
    assert result["ran"] == 24 - len(recorded)
    found = rows(store)
    assert [row["status"] for row in found] == ["finished"] * 24
    assert len({row["key"] for row in found}) == 24
    assert len({json.dumps(row["cell"], sort_keys=True) for row in result["rows"]}) == 24
    assert {key: starts(store)[key] for key in recorded} == recorded  # none run twice
    wider = grid(tmp_path / "grid.yaml", benchmark, [*methods, "dan"])
    again = outcome(process(*command), timeout_seconds=SECONDS).json
    assert wider == file
    assert again["ran"] == 8
    assert len(again["rows"]) == 32
    new = {row["cell"]["method"] for row in rows(store)[24:]}
    assert new == {"dan"}


@pytest.mark.parametrize("retries", [1, 0])
def test_a_trial_whose_process_is_killed_is_tried_again(benchmark, tmp_path, retries):
    store = tmp_path / "store"
    tree = {
        "config": str(CONFIGS / "dann.yaml"),
        "set": {
            "data.root": str(benchmark),
            "data.num_classes": None,
            "training.steps": 60,
            "training.batch": 8,
            "training.checkpoint_every": 5,
            "training.log_every": 1,
        },
        "axes": {"training.seed": [0]},
        "oracle": False,
        "reports": False,
        "retries": retries,
    }
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(tree))
    running = process("sweep", file, "--store", store, "--json")

    def trained() -> bool:
        return bool(list(store.glob("cells/*/checkpoints/step-0000001*")))

    wait_until(trained, running, seconds=240)
    trials = [pid for pid, words in descendants(running.pid).items() if "ImplicitFunc" in words]
    assert len(trials) == 1, descendants(running.pid)
    os.kill(trials[0], signal.SIGKILL)
    done = outcome(running, timeout_seconds=SECONDS)
    (row,) = rows(store)
    if not retries:
        assert done.code == 1
        assert row["status"] == "failed"
        assert row["error"]
        return
    assert done.code == 0, done.err
    assert row["status"] == "finished"
    assert row["attempts"] == 2
    assert "tries again" in done.err
    (log,) = store.glob("cells/*/log.jsonl")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(60))  # it went on at a checkpoint, each step logged once
