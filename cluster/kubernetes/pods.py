"""Pods of a Ray cluster that the restricted profile of Kubernetes' pod security admits.

Nothing runs as root or gains rights, and the image's file system is read-only. Each pod gets
exactly the memory and CPUs that it requests (requests = limits), so that it is evicted last. Ray
and Python write to emptyDirs; results go to the volume.
"""

from __future__ import annotations

from typing import Any

from cluster.kubernetes.options import GIB, Options, shown_bytes

USER_ID = 1000  # the Dockerfiles' user
STORAGE_FOLDER = "/storage"
CONFIG_FOLDER = "/etc/img2shape"
METRICS_PORT_NAME = "img2shape"
SHARED_LABELS = {  # of objects that several runs of a namespace use
    "app.kubernetes.io/name": "img2shape",
    "app.kubernetes.io/part-of": "img2shape",
    "app.kubernetes.io/managed-by": "img2shape",
}
_HOME = "/home/img2shape"

_HEAD_CPUS = 2
_HEAD_BYTES = 8 * GIB  # Ray's control processes, and the driver with torch and the exporter
_HEAD_SHM_BYTES = 2 * GIB
_SCRATCH_BYTES = 8 * GIB  # Ray's logs and sockets
_HOME_BYTES = 1 * GIB
_EPHEMERAL_BYTES = 10 * GIB
_SUBMITTER = {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"}
# A worker that gets SIGTERM writes a checkpoint first, which takes a while on a slow volume.
_GRACE_SECONDS = 120


def labels(options: Options, *, component: str) -> dict[str, str]:
    """Labels of every object; dashboards and policies select by `img2shape.io/run`."""
    return {
        "app.kubernetes.io/name": "img2shape",
        "app.kubernetes.io/instance": options.name,
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "img2shape",
        "app.kubernetes.io/managed-by": "img2shape",
        **selector(options),
    }


def selector(options: Options) -> dict[str, str]:
    """The label that only the pods of this job have."""
    return {"img2shape.io/run": options.name}


def pod_template(options: Options, *, role: str, metrics_port: int) -> dict[str, Any]:
    """The template of the head, or of a worker.

    Args:
        role: ``head`` or ``worker``.
        metrics_port: of the run's exporter, which lives beside the driver on the head.
    """
    head = role == "head"
    size = options.size
    container: dict[str, Any] = {
        "name": f"ray-{role}",
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "workingDir": STORAGE_FOLDER,
        "env": _environment(threads=1 if head else size.cpus_per_worker),
        **_from_secret(options),
        "resources": _resources(options, head=head),
        "securityContext": _container_security(),
        "volumeMounts": _mounts(),
    }
    if head:
        container["ports"] = [
            {"name": "gcs-server", "containerPort": 6379},
            {"name": "dashboard", "containerPort": 8265},
            {"name": METRICS_PORT_NAME, "containerPort": metrics_port},
        ]
    spec = _pod_spec(container, grace_seconds=_GRACE_SECONDS)
    shm_bytes = _HEAD_SHM_BYTES if head else size.shm_bytes
    spec["volumes"] = _volumes(options, shm_bytes=shm_bytes)
    if not head and size.gpus:
        spec["tolerations"] = [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return {"metadata": {"labels": labels(options, component=role)}, "spec": spec}


def submitter_template(options: Options) -> dict[str, Any]:
    """The pod in which KubeRay runs `ray job submit`; its shell expands the variables."""
    container = {
        "name": "ray-job-submitter",
        "image": options.image,
        "imagePullPolicy": "IfNotPresent",
        "env": _environment(threads=1),
        "resources": {"requests": dict(_SUBMITTER), "limits": dict(_SUBMITTER)},
        "securityContext": _container_security(),
        "volumeMounts": [
            {"name": "scratch", "mountPath": "/tmp"},
            {"name": "home", "mountPath": _HOME},
        ],
    }
    spec = _pod_spec(container, grace_seconds=30)
    spec["restartPolicy"] = "Never"
    spec["volumes"] = [_empty("scratch", GIB // 2), _empty("home", GIB // 4)]
    return {"metadata": {"labels": labels(options, component="submitter")}, "spec": spec}


def object_store_bytes(options: Options, *, role: str) -> int:
    """Ray's half of /dev/shm; the other half is for the batches of loader processes."""
    return (_HEAD_SHM_BYTES if role == "head" else options.size.shm_bytes) // 2


def _pod_spec(container: dict[str, Any], *, grace_seconds: int) -> dict[str, Any]:
    return {
        "serviceAccountName": "img2shape",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }


def _container_security() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def _environment(*, threads: int) -> list[dict[str, str]]:
    values = {
        "IMG2SHAPE_STORAGE": STORAGE_FOLDER,
        "IMG2SHAPE_CONFIG": f"{CONFIG_FOLDER}/config.yaml",
        "HOME": _HOME,
        "MPLCONFIGDIR": "/tmp/matplotlib",
        "NUMBA_CACHE_DIR": "/tmp/numba",
        # Weights are downloaded once for all pods, and frozen stages computed once.
        "TORCH_HOME": f"{STORAGE_FOLDER}/cache/torch",
        "HF_HOME": f"{STORAGE_FOLDER}/cache/huggingface",
        "IMG2SHAPE_FEATURES": f"{STORAGE_FOLDER}/cache/features",
        "OMP_NUM_THREADS": str(threads),  # Ray would set it to 1
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _from_secret(options: Options) -> dict[str, Any]:
    if options.secret is None:
        return {}
    return {"envFrom": [{"secretRef": {"name": options.secret}}]}


def _resources(options: Options, *, head: bool) -> dict[str, Any]:
    size = options.size
    amounts = {
        "cpu": str(_HEAD_CPUS if head else size.cpus),
        "memory": shown_bytes(_HEAD_BYTES if head else size.memory_bytes),
        "ephemeral-storage": shown_bytes(_EPHEMERAL_BYTES),
    }
    if not head and size.gpus:
        amounts["nvidia.com/gpu"] = str(size.gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _mounts() -> list[dict[str, Any]]:
    return [
        {"name": "storage", "mountPath": STORAGE_FOLDER},
        {"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "scratch", "mountPath": "/tmp"},
        {"name": "home", "mountPath": _HOME},
    ]


def _volumes(options: Options, *, shm_bytes: int) -> list[dict[str, Any]]:
    shm = _empty("shm", shm_bytes)
    shm["emptyDir"]["medium"] = "Memory"
    return [
        {"name": "storage", "persistentVolumeClaim": {"claimName": options.storage.claim}},
        {"name": "config", "configMap": {"name": f"{options.name}-config"}},
        shm,
        _empty("scratch", _SCRATCH_BYTES),
        _empty("home", _HOME_BYTES),
    ]


def _empty(name: str, limit_bytes: int) -> dict[str, Any]:
    return {"name": name, "emptyDir": {"sizeLimit": shown_bytes(limit_bytes)}}
