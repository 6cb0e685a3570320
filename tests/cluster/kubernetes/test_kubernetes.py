"""Rendered objects: valid by schema, restricted, complete, and with commands that a shell takes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from itertools import product
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from cluster.kubernetes.options import (
    JOBS,
    QUEUES,
    RAY_VERSION,
    Options,
    default_image,
    parse_bytes,
    parse_storage,
    size_of,
)
from cluster.kubernetes.rendering import render, to_yaml
from cluster.kubernetes.validate import check
from cluster.sweeps.description import load_sweep
from tests.cluster.kubernetes.restricted import pod_specs, restricted_findings, violations
from tests.command import CONFIGS, ROOT, call
from trainer.config import load_config

SCHEMAS = ROOT.parent / "shared" / "schemas"
SWEEP = ROOT / "configs" / "sweeps" / "backbones-and-pairs.yaml"
STORAGES = {
    "existing": ["pvc:data"],
    "made": ["pvc:data:100Gi"],
    "bucket": ["pvc:data", "s3://bucket/sets"],
}
CASES = [
    case
    for case in product(JOBS, STORAGES, (None, *QUEUES))
    if case[:2] != ("sweep", "bucket")  # refused; see test_kubernetes_input.py
]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # the sweep file names its descriptions from there


def rendered(job: Any = "train", *, storage: str = "made", **more: Any) -> list[dict[str, Any]]:
    size = {"gpus": 4, "gpus_per_node": 2, **more.pop("size", {})}
    options = Options(
        job=job,
        name="pairs",
        size=size_of(**size),
        storage=parse_storage(STORAGES[storage]),
        image=default_image(gpus=size["gpus"]),
        run="pairs",
        **more,
    )
    path = SWEEP if job == "sweep" else CONFIGS / "astn.yaml"
    return render(path, more.get("overrides", ()), options)


def of(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [manifest for manifest in objects if manifest["kind"] == kind]


def cluster_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    for manifest in of(objects, "RayJob"):
        return manifest["spec"]["rayClusterSpec"]
    return of(objects, "RayCluster")[0]["spec"]


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused, as the API server refuses or drops them."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: strict(value) for key, value in schema.items()}
    known = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    if known and not schema.get("x-kubernetes-preserve-unknown-fields"):
        changed.setdefault("additionalProperties", False)
    return changed


@pytest.fixture(scope="module")
def ray_kinds() -> dict[str, jsonschema.Draft202012Validator]:
    if not SCHEMAS.is_dir():
        pytest.skip("KubeRay's resource definitions are not there (../shared/schemas)")
    found = {}
    for kind in ("RayJob", "RayCluster"):
        text = (SCHEMAS / f"ray.io_{kind.casefold()}s.yaml").read_text()
        definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        versions = {version["name"]: version for version in definition["spec"]["versions"]}
        schema = strict(versions["v1"]["schema"]["openAPIV3Schema"])
        del schema["properties"]["metadata"]["type"]
        found[kind] = jsonschema.Draft202012Validator(schema)
    return found


def test_core_objects_fit_their_schemas():
    """Of all cases; those that several have, once."""
    pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    distinct = {
        json.dumps(manifest): manifest
        for job, storage, queue in CASES
        for manifest in rendered(job, storage=storage, queue=queue, secret="bucket")
    }
    done = check(list(distinct.values()))
    assert done.findings == ()
    assert violations(distinct.values()) == []
    core = [o for o in distinct.values() if not re.search(r"ray\.io|coreos", o["apiVersion"])]
    assert done.by_schema == len(core) > 30
    kinds = {"ServiceAccount", "ConfigMap", "NetworkPolicy", "PersistentVolumeClaim"}
    assert {manifest["kind"] for manifest in core} == kinds


def test_a_wrong_core_object_is_seen():
    pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    (policy, *_) = of(rendered(), "NetworkPolicy")
    policy["spec"]["policyType"] = []
    (finding,) = check([policy]).findings
    assert finding.startswith("NetworkPolicy pairs-deny: ")


@pytest.mark.parametrize(("job", "storage", "queue"), CASES)
def test_ray_objects_fit_the_definitions_of_kuberay(job, storage, queue, ray_kinds):
    objects = rendered(job, storage=storage, queue=queue, secret="bucket")
    (manifest,) = [o for o in objects if o["apiVersion"] == "ray.io/v1"]
    errors = list(ray_kinds[manifest["kind"]].iter_errors(manifest))
    assert [f"{e.json_path}: {e.message[:200]}" for e in errors] == []


def test_an_unknown_field_is_seen(ray_kinds):
    (job,) = of(rendered(), "RayJob")
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["hostNetwrk"] = True
    assert any("hostNetwrk" in e.message for e in ray_kinds["RayJob"].iter_errors(job))


@pytest.mark.parametrize("job", JOBS)
def test_every_pod_is_restricted(job):
    specs = [spec for manifest in rendered(job) for spec in pod_specs(manifest)]
    assert len(specs) == (2 if job == "cluster" else 3)  # head, worker, submitter
    for spec in specs:
        assert list(restricted_findings(spec)) == []
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsUser"] == 1000


@pytest.mark.parametrize(
    ("path", "value", "finding"),
    [
        (("hostNetwork",), True, "hostNetwork"),
        (("containers", 0, "securityContext", "privileged"), True, "privileged"),
        (("containers", 0, "securityContext", "runAsNonRoot"), False, "runAsNonRoot"),
        (("containers", 0, "securityContext", "capabilities"), {}, "capabilities"),
        (("containers", 0, "securityContext", "readOnlyRootFilesystem"), False, "readOnly"),
        (("containers", 0, "resources", "requests"), {"cpu": "1"}, "requests"),
        (("volumes",), [{"name": "root", "hostPath": {"path": "/"}}], "volume root"),
    ],
)
def test_a_pod_that_is_not_restricted_is_found(path, value, finding):
    spec = cluster_of(rendered())["headGroupSpec"]["template"]["spec"]
    *parents, last = path
    node = spec
    for part in parents:
        node = node[part]
    node[last] = value
    assert any(finding in found for found in restricted_findings(spec))


def test_gpus_are_spread_over_pods_with_their_memory():
    cluster = cluster_of(rendered(size={"memory": "20Gi", "cpus_per_worker": 3}))
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (2, 2, 2)
    limits = worker["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["cpu"], limits["memory"]) == ("2", "6", "40Gi")
    shm = next(v for v in group["template"]["spec"]["volumes"] if v["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "10Gi"}
    store = int(group["rayStartParams"]["object-store-memory"])
    assert store * 2 == parse_bytes("10Gi", option="")
    head = cluster["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in str(head)


def test_cpu_pods_hold_one_worker_each():
    cluster = cluster_of(rendered(size={"gpus": 0, "gpus_per_node": 1, "workers": "3"}))
    (group,) = cluster["workerGroupSpecs"]
    assert group["replicas"] == 3
    assert group["rayStartParams"]["num-cpus"] == "1"
    assert "nvidia" not in str(cluster)


def test_the_job_cleans_up_and_is_tried_again():
    (job,) = of(rendered(), "RayJob")
    spec = job["spec"]
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert 0 < spec["backoffLimit"] <= 3
    assert spec["activeDeadlineSeconds"] > 0
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == RAY_VERSION


def test_queues_are_labels():
    (kueue,) = of(rendered(queue="kueue", queue_name="lab"), "RayJob")
    assert kueue["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lab"
    assert kueue["spec"]["suspend"] is True
    assert "preRunningDeadlineSeconds" not in kueue["spec"]
    (volcano,) = of(rendered(queue="volcano", queue_name="lab"), "RayJob")
    assert volcano["metadata"]["labels"]["ray.io/scheduler-name"] == "volcano"
    assert volcano["metadata"]["labels"]["volcano.sh/queue-name"] == "lab"
    assert "suspend" not in volcano["spec"]


def test_the_network_is_closed_but_for_what_is_needed():
    policies = {p["metadata"]["name"]: p["spec"] for p in of(rendered(), "NetworkPolicy")}
    assert set(policies) == {f"pairs-{n}" for n in ("deny", "dns", "ray", "operator", "metrics")}
    for policy in policies.values():
        assert policy["podSelector"] == {"matchLabels": {"img2shape.io/run": "pairs"}}
    deny = policies["pairs-deny"]
    assert (deny["policyTypes"], "ingress" in deny, "egress" in deny) == (
        ["Ingress", "Egress"],
        False,
        False,
    )
    assert {p["port"] for p in policies["pairs-dns"]["egress"][0]["ports"]} == {53}
    (metrics,) = policies["pairs-metrics"]["ingress"]
    names = metrics["from"][0]["namespaceSelector"]["matchLabels"]
    assert names == {"kubernetes.io/metadata.name": "monitoring"}
    outside = of(rendered(storage="bucket"), "NetworkPolicy")
    (data,) = [p for p in outside if p["metadata"]["name"] == "pairs-data"]
    assert [port["port"] for port in data["spec"]["egress"][0]["ports"]] == [443]


def test_monitoring_finds_the_run():
    objects = rendered()
    (monitor,) = of(objects, "PodMonitor")
    head = cluster_of(objects)["headGroupSpec"]["template"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    assert wanted.items() <= head["metadata"]["labels"].items()
    ports = {p["name"]: p["containerPort"] for p in head["spec"]["containers"][0]["ports"]}
    config = yaml.safe_load(of(objects, "ConfigMap")[0]["data"]["config.yaml"])
    assert config["monitoring"] == {"enabled": True, "host": "0.0.0.0", "port": ports["img2shape"]}
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "img2shape"
    (rule,) = of(objects, "PrometheusRule")
    assert all(group["rules"] for group in rule["spec"]["groups"])
    boards = [m for m in of(objects, "ConfigMap") if "grafana_dashboard" in m["metadata"]["labels"]]
    assert {"img2shape-run.json", "img2shape-sweep.json"} <= boards[0]["data"].keys()


def test_without_monitoring_nothing_listens_beyond_the_pod():
    objects = rendered(monitoring=False)
    assert {"PodMonitor", "PrometheusRule"} & {o["kind"] for o in objects} == set()
    assert not any("metrics" in p["metadata"]["name"] for p in of(objects, "NetworkPolicy"))
    (described,) = of(objects, "ConfigMap")
    assert yaml.safe_load(described["data"]["config.yaml"])["monitoring"]["host"] == "127.0.0.1"


def test_no_secret_is_in_any_object(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-print")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "do-not-print")
    objects = rendered(secret="bucket", storage="bucket")
    text = to_yaml(objects)
    assert "do-not-print" not in text
    assert of(objects, "Secret") == []
    for group in ("headGroupSpec", "worker"):
        spec = cluster_of(objects)
        part = spec["workerGroupSpecs"][0] if group == "worker" else spec[group]
        (container,) = part["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
        names = [variable["name"] for variable in container["env"]]
        assert not any(re.search("SECRET|TOKEN|PASSWORD|KEY", name) for name in names)


@pytest.mark.parametrize(("storage", "folder"), [("made", ""), ("bucket", "s3://bucket/sets/")])
def test_data_lie_below_the_volume_or_the_bucket(storage, folder, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(of(rendered(storage=storage), "ConfigMap")[0]["data"]["config.yaml"])
    config = load_config(path)
    assert config.data.root == f"{folder}data/procedural-small"
    assert config.identity == load_config(CONFIGS / "astn.yaml").identity


def test_a_sweep_takes_its_descriptions_along(tmp_path, monkeypatch):
    data = of(rendered("sweep"), "ConfigMap")[0]["data"]
    assert set(data) == {"config.yaml", "astn.yaml", "dann.yaml", "source-only.yaml"}
    for name, text in data.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sweep = load_sweep(tmp_path / "config.yaml")
    assert sweep.name == "backbones-and-pairs"
    assert load_config(sweep.config.replace("{method}", "dann")).method_name == "dann"


@pytest.mark.parametrize("job", ["train", "sweep", "eval"])
@pytest.mark.parametrize("mode", ["http", "pasted"])
def test_entrypoints_survive_the_shells_between(job, mode, tmp_path):
    """HTTPMode hands Ray the text; K8sJobMode pastes it after `ray job submit --`, whose arguments
    Ray joins again. Both give the same command, in the volume."""
    entrypoint = of(rendered(job), "RayJob")[0]["spec"]["entrypoint"]
    stub = tmp_path / "bin" / "img2shape"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    (tmp_path / "volume").mkdir()
    env = {
        "PATH": f"{stub.parent}:{os.environ['PATH']}",
        "IMG2SHAPE_STORAGE": str(tmp_path / "volume"),
        "IMG2SHAPE_CONFIG": "/etc/img2shape/config.yaml",
    }
    if mode == "pasted":
        pasted = ["bash", "-ce", "--", f'if true ; then printf "%s\\0" {entrypoint} ; fi ; true']
        text = subprocess.run(pasted, env=env, capture_output=True, text=True, check=True).stdout
        entrypoint = subprocess.list2cmdline(text.split("\0")[:-1])
        env = {"PATH": env["PATH"]}  # expanded before
    ran = subprocess.run(entrypoint, shell=True, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    folder, *args = ran.stdout.splitlines()
    assert Path(folder) == tmp_path / "volume"
    expected = {
        "train": "train /etc/img2shape/config.yaml --workers 4 --out runs/pairs",
        "sweep": "sweep /etc/img2shape/config.yaml --store runs/sweeps --resume",
        "eval": "eval runs/pairs --workers 4",
    }
    assert " ".join(args) == expected[job]


def test_the_command_prints_what_kubectl_takes(capfd, tmp_path):
    config = CONFIGS / "astn.yaml"
    shown = call(capfd, "k8s", "render", config, "training.steps=3", "--no-monitoring")
    assert shown.code == 0, shown.err
    objects = list(yaml.safe_load_all(shown.out))
    assert of(objects, "RayJob")[0]["metadata"]["name"] == "astn"
    assert "steps: 3" in of(objects, "ConfigMap")[0]["data"]["config.yaml"]
    assert "kubectl apply -f" in shown.err
    assert "restricted" in shown.err
    file = tmp_path / "job.yaml"
    written = call(capfd, "k8s", "render", SWEEP, "--no-monitoring", "--out", file)
    assert (written.code, written.out) == (0, "")
    (job,) = of(list(yaml.safe_load_all(file.read_text())), "RayJob")
    assert "img2shape sweep" in job["spec"]["entrypoint"]
    assert f"kubectl apply -f {file}" in written.err
