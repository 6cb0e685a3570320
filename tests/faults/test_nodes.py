"""Rendered jobs on several nodes: their entrypoints, as they stand, through Ray's job server.

Three nodes of one CPU beside a head without any, each a ``ray start`` of its own, with token
authentication, as pods have it. A job finds its description and the volume by the two variables
that its pods set.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.ray_nodes import BIN, RayNodes
from tests.command import CONFIGS, call, environment, small
from tests.faults.job import descendants, kept
from trainer.runs.attempt import read_starts
from trainer.runs.run_folder import RunFolder

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.slow]
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
LENGTH, EVERY = 400, 20  # some ten seconds: time to kill a node in
STEPS = {"training__steps": LENGTH, "training__checkpoint_every": EVERY}


@pytest.fixture(scope="module")
def storage(benchmark, tmp_path_factory) -> Path:
    """What pods see as their volume: data sets, and runs to come."""
    volume = tmp_path_factory.mktemp("storage")
    (volume / "data").mkdir()
    (volume / "data" / "smoke").symlink_to(benchmark)
    return volume


@pytest.fixture(scope="module")
def nodes(storage) -> Iterator[RayNodes]:
    found = RayNodes(3, variables={"IMG2SHAPE_STORAGE": str(storage), "OMP_NUM_THREADS": "1"})
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def client(nodes) -> Any:
    from ray.job_submission import JobSubmissionClient

    # In a header, since this process has made up its mind on RAY_AUTH_MODE when Ray was loaded.
    token = nodes.environment["RAY_AUTH_TOKEN"]
    return JobSubmissionClient(nodes.address, headers={"Authorization": f"Bearer {token}"})


def rendered(capfd, folder: Path, *args: object) -> tuple[str, Path]:
    """Entrypoint of the RayJob that ``k8s render args`` prints, and its ConfigMap as a folder."""
    told = call(capfd, "k8s", "render", *args)
    assert told.code == 0, told.err
    objects = list(yaml.safe_load_all(told.out))
    (job,) = [o for o in objects if o["kind"] == "RayJob"]
    (files,) = [o for o in objects if o["metadata"]["name"] == f"{job['metadata']['name']}-config"]
    folder.mkdir()
    for name, text in files["data"].items():
        (folder / name).write_text(text)
    return job["spec"]["entrypoint"], folder / "config.yaml"


def wait(condition: Callable[[], Any], client: Any, job: str, *, seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        over = client.get_job_status(job) in ENDED
        if (over and not condition()) or time.monotonic() > until:
            raise AssertionError(client.get_job_logs(job)[-3000:])
        time.sleep(0.2)


def succeeded(client: Any, job: str) -> str:
    """What a job has printed, once it has ended well."""
    wait(lambda: client.get_job_status(job) in ENDED, client, job)
    logs = client.get_job_logs(job)
    assert client.get_job_status(job) == "SUCCEEDED", logs[-3000:]
    return logs


def test_a_submitted_job_outlives_a_node_and_is_evaluated(nodes, storage, client, capfd, tmp_path):
    described = (CONFIGS / "astn.yaml", *small(Path("data/smoke"), **STEPS))
    entrypoint, config = rendered(
        capfd, tmp_path / "etc", *described, "--workers", 2, "--name", "across"
    )
    submit = f"{BIN}/ray job submit --no-wait --submission-id across -- {entrypoint}"
    variables = {"IMG2SHAPE_STORAGE": str(storage), "IMG2SHAPE_CONFIG": str(config)}
    shell = environment(**variables, **nodes.environment)  # as that of the submitter's pod
    subprocess.run(submit, shell=True, check=True, capture_output=True, env=shell)
    run = storage / "runs" / "across"
    wait(lambda: kept(run) >= EVERY, client, "across")
    with_worker = [
        number
        for number in (1, 2, 3)
        if any("RayTrainWorker" in c for c in descendants(nodes.pid(number)).values())
    ]
    assert len(with_worker) == 2  # one worker on each of two nodes
    nodes.kill(with_worker[0])
    logs = succeeded(client, "across")
    first, *later = read_starts(run)
    assert first.world_size == 2
    assert [start.world_size for start in later] == [2]  # on the node that was free
    assert later[0].step >= EVERY
    assert f"continuing at step {later[0].step}" in logs
    assert RunFolder(run).finished
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(LENGTH))

    entrypoint, config = rendered(
        capfd, tmp_path / "eval", *described, "--job", "eval", "--run", "across", "--workers", 1
    )
    variables = {"IMG2SHAPE_CONFIG": str(config)}
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": variables})
    succeeded(client, job)
    (scores,) = (run / "evaluation").glob("*.json")
    assert 0 <= json.loads(scores.read_text())["mAP"] <= 1


def test_a_submitted_sweep_trains_its_cells(storage, client, capfd, tmp_path):
    keys = dict(pair.split("=", 1) for pair in small(Path("data/smoke"), training__steps=3))
    tree = {
        "config": str(CONFIGS / "{method}.yaml"),
        "set": {key: yaml.safe_load(value) for key, value in keys.items()},
        "axes": {"method": ["source-only", "dann"]},
        "reports": False,
    }
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(tree))
    entrypoint, config = rendered(capfd, tmp_path / "etc", tmp_path / "two.yaml", "--workers", 2)
    variables = {"IMG2SHAPE_CONFIG": str(config)}
    job = client.submit_job(entrypoint=entrypoint, runtime_env={"env_vars": variables})
    succeeded(client, job)
    ledger = storage / "runs" / "sweeps" / "ledger"
    rows = [json.loads(file.read_text()) for file in ledger.glob("*.jsonl")]
    assert sorted(row["method"] for row in rows) == ["dann", "source-only"]
    assert {row["status"] for row in rows} == {"finished"}
