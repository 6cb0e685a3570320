"""RayJob and RayCluster (ray.io/v1, KubeRay 1.7 or newer)."""

from __future__ import annotations

from typing import Any

from cluster.kubernetes.descriptions import entrypoint
from cluster.kubernetes.options import RAY_VERSION, Options
from cluster.kubernetes.pods import labels, object_store_bytes, pod_template, submitter_template

# A retry may begin while a worker of the attempt before is still running. That is safe: each
# checkpoint has the number of its attempt, and a writer that finds a higher one stops.
_RETRIES = 2
_SUBMITTER_RETRIES = 3  # `ray job submit` finds a job that it has submitted before
_KEPT_SECONDS = 60  # a finished job keeps its pods and GPUs so long, for a last scrape
_WAITING_SECONDS = 3600  # for nodes, before the job fails


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
    if options.queue != "kueue":  # in Kueue's queue a job may wait for days
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
            # Ray's CPUs count processes here: a CPU pod runs one, with several threads.
            **({} if size.gpus else {"num-cpus": str(size.workers_per_pod)}),
            "object-store-memory": str(object_store_bytes(options, role="worker")),
        },
        "template": pod_template(options, role="worker", metrics_port=metrics_port),
    }
    return {
        "rayVersion": RAY_VERSION,
        "authOptions": {"mode": "token"},  # KubeRay makes the token and gives it to all pods
        "enableInTreeAutoscaling": False,
        "headGroupSpec": {
            "serviceType": "ClusterIP",
            "rayStartParams": {
                "num-cpus": "0",  # no worker trains on the head
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
    """Kueue clears this when it admits the job; where there is no Kueue, the job waits."""
    return {"suspend": True} if options.queue == "kueue" else {}
