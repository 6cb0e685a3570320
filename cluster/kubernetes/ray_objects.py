"""RayJob and RayCluster (ray.io/v1, KubeRay 1.7 or newer)."""

from __future__ import annotations

from typing import Any

from cluster.kubernetes.descriptions import entrypoint
from cluster.kubernetes.options import RAY_VERSION, Options
from cluster.kubernetes.pods import labels, object_store_bytes, pod_template, submitter_template

# A second attempt may begin while a worker of the first still dies. That is safe: a checkpoint
# carries the number of the attempt that wrote it, and one attempt fences off those before it.
_RETRIES = 2
_SUBMITTER_RETRIES = 3  # of `ray job submit`, which finds a job that it has submitted before
_KEPT_SECONDS = 60  # the pods of a finished job, with their GPUs: long enough for a last scrape
_WAITING_SECONDS = 3600  # for nodes, before the job is given up


def ray_job(options: Options, *, metadata: dict[str, Any], metrics_port: int) -> dict[str, Any]:
    """A cluster that lives as long as one command."""
    spec = {
        "entrypoint": entrypoint(options),
        "submissionMode": "K8sJobMode",
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": _KEPT_SECONDS,
        "backoffLimit": _RETRIES,
        "activeDeadlineSeconds": options.deadline_seconds,
        "submitterConfig": {"backoffLimit": _SUBMITTER_RETRIES},
        "submitterPodTemplate": submitter_template(options),
        "rayClusterSpec": _cluster_spec(options, metrics_port=metrics_port),
    }
    if options.queue != "kueue":  # a job in a queue may wait for days, which is no failure
        spec["preRunningDeadlineSeconds"] = _WAITING_SECONDS
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": _queued(options, metadata),
        "spec": {**spec, **_suspended(options)},
    }


def ray_cluster(options: Options, *, metadata: dict[str, Any], metrics_port: int) -> dict[str, Any]:
    """A cluster that stays, for `ray job submit` by hand."""
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": _queued(options, metadata),
        "spec": {**_cluster_spec(options, metrics_port=metrics_port), **_suspended(options)},
    }


def _cluster_spec(options: Options, *, metrics_port: int) -> dict[str, Any]:
    size = options.size
    worker = {
        "groupName": "workers",
        "replicas": size.pods,
        "minReplicas": size.pods,
        "maxReplicas": size.pods,
        "rayStartParams": {
            # One process trains on each CPU pod, whatever number of threads it has.
            **({} if size.gpus else {"num-cpus": str(size.workers_per_pod)}),
            "object-store-memory": str(object_store_bytes(options, role="worker")),
        },
        "template": pod_template(options, role="worker", metrics_port=metrics_port),
    }
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},  # KubeRay makes the token's Secret and hands it to all
        "enableInTreeAutoscaling": False,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {
                "num-cpus": "0",  # nothing trains here
                "dashboard-host": "0.0.0.0",
                "object-store-memory": str(object_store_bytes(options, role="head")),
            },
            "template": pod_template(options, role="head", metrics_port=metrics_port),
        },
        "workerGroupSpecs": [worker],
    }


def _queued(options: Options, metadata: dict[str, Any]) -> dict[str, Any]:
    found = {**metadata, "name": options.name, "labels": labels(options, component=options.job)}
    if options.queue == "kueue":
        found["labels"]["kueue.x-k8s.io/queue-name"] = options.queue_name
    elif options.queue == "volcano":  # the operator needs --batch-scheduler=volcano
        found["labels"]["ray.io/scheduler-name"] = "volcano"
        found["labels"]["volcano.sh/queue-name"] = options.queue_name
    return found


def _suspended(options: Options) -> dict[str, Any]:
    """Kueue admits by clearing this; without Kueue the job then waits instead of jumping in."""
    return {"suspend": True} if options.queue == "kueue" else {}
