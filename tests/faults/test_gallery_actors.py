"""Gallery shards on nodes that are lost, and commands that are interrupted while they score."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalsuite.scoring.evaluation import evaluate
from evalsuite.vectors.embeddings import Embeddings, write_embeddings
from tests.command import outcome, process, wait_until
from tests.evalsuite.embedding_folders import write_parts
from tests.faults.job import descendants
from tests.faults.small_cluster import SmallCluster

pytestmark = [pytest.mark.slow, pytest.mark.faults, pytest.mark.ray]


def cloud(name: str, count: int, *, width: int = 16) -> Embeddings:
    random = np.random.default_rng(len(name))
    return Embeddings(
        [f"{name}-{i}" for i in range(count)],
        [f"class-{i % 7}" for i in range(count)],
        random.normal(size=(count, width)).astype(np.float32),
    )


@pytest.fixture
def three_nodes(monkeypatch) -> Iterator[SmallCluster]:
    """Three nodes with one CPU each, which the command finds by RAY_ADDRESS."""
    cluster = SmallCluster(3)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        cluster.close()


def told(running: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of tests.faults.scoring."""
    assert running.stdout is not None
    for line in running.stdout:
        if line.startswith("> "):
            return json.loads(line[2:])
    raise AssertionError(f"ended too early: {outcome(running)}")


def test_a_lost_node_changes_nothing(three_nodes, tmp_path):
    queries, gallery = cloud("query", 40), cloud("shape", 400)
    write_embeddings(tmp_path / "q.parquet", queries)
    write_parts(tmp_path / "g", gallery, fingerprint="f", part_rows=90)
    expected = evaluate(queries, gallery)
    files = (tmp_path / "q.parquet", tmp_path / "g")
    running = process(*files, 3, module="tests.faults.scoring", stdin=subprocess.PIPE)
    assert running.stdin is not None
    before = [node for node, _ in told(running)["where"]]
    assert len(set(before)) == 3
    three_nodes.kill(0)
    running.stdin.write("go on\n")
    running.stdin.flush()
    end = told(running)
    done = outcome(running)
    assert done.code == 0, done.err
    assert end["result"] == expected.to_json()
    assert end["per_query"] == [repr(row) for row in expected.per_query.to_pylist()]
    after = [node for node, _ in end["where"]]
    lost = [n for n in range(3) if before[n] not in after]
    assert len(lost) == 1
    assert end["restarts"] == [int(n in lost) for n in range(3)]
    said = f"gallery shard {lost[0] + 1} of 3 was lost and restarted (1 of 3)"
    assert done.err.count(said) == 1, done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_command_leaves_no_actor(number, tmp_path):
    files: list[Path] = []
    for name, count in (("queries", 6000), ("gallery", 120_000)):
        files.append(tmp_path / f"{name}.parquet")
        write_embeddings(files[-1], cloud(name, count, width=64))
    command = ["--queries", files[0], "--gallery", files[1], "--shards", 2, "--actors"]
    running = process("metrics", *command)
    seen: set[int] = set()

    def computing() -> bool:
        found = descendants(running.pid)
        seen.update(found)
        return sum("ShardActor.call" in text for text in found.values()) == 2

    wait_until(computing, running)
    actors = {pid for pid, text in descendants(running.pid).items() if "ShardActor" in text}
    os.kill(running.pid, number)
    left = outcome(running)
    if number == signal.SIGKILL:  # Ray's own agents take a minute to notice
        seen = actors
    else:
        assert left.code == 130, left.err
        complaints = [line for line in left.err.splitlines() if line.startswith("img2shape: ")]
        assert complaints == left.err.splitlines()[-1:], left.err
        assert "Traceback" not in left.err
    for _ in range(200):
        alive = [pid for pid in seen if Path(f"/proc/{pid}").exists()]
        if not alive:
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {alive}")
