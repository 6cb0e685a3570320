"""What is asked of a rendering, checked before anything is rendered."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from cluster.kubernetes.quantities import GIB, parse_bytes, shown_bytes
from cluster.kubernetes.storage import Storage
from cluster.training import GroupSize, parse_workers
from dataio.names import nearest
from trainer.config import ConfigError

Job = Literal["train", "sweep", "eval", "cluster"]
JOBS = ("train", "sweep", "eval", "cluster")
QUEUES = ("kueue", "volcano")
RAY_VERSION = "2.60.0"  # of the images; k8s/Dockerfile.* install the same

# KubeRay appends six characters to a RayJob's name and allows 53 for the cluster's (DNS-1035).
_LONGEST_NAME = 47
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")


@dataclass(frozen=True)
class Size:
    """Pods and what each has.

    Attributes:
        workers: processes that train, over all pods.
        pods: worker pods; the head comes on top and trains nothing.
        gpus: of each pod.
        cpus: of each pod.
        cpus_per_worker: threads of each process.
        memory_bytes: of each pod, ``shm_bytes`` of /dev/shm included.
    """

    workers: GroupSize
    pods: int
    gpus: int
    cpus: int
    cpus_per_worker: int
    memory_bytes: int
    shm_bytes: int

    @property
    def workers_per_pod(self) -> int:
        return max(1, self.gpus)


@dataclass(frozen=True)
class Options:
    """Everything but the run description.

    Attributes:
        run: folder below ``runs`` that an evaluation reads and a training writes.
        queue_name: the LocalQueue of Kueue or the queue of Volcano.
        secret: an existing Secret whose keys become environment variables (bucket credentials).
        deadline_seconds: after which KubeRay stops a job.
    """

    job: Job
    name: str
    size: Size
    storage: Storage
    image: str
    run: str
    namespace: str = "img2shape"
    queue: str | None = None
    queue_name: str = "img2shape"
    secret: str | None = None
    monitoring: bool = True
    monitoring_namespace: str = "monitoring"
    deadline_seconds: int = 7 * 24 * 3600


def size_of(
    *,
    gpus: int = 0,
    gpus_per_node: int = 1,
    workers: str | None = None,
    cpus_per_worker: int | None = None,
    memory: str | None = None,
    shm: str | None = None,
) -> Size:
    """Pods for ``gpus`` GPUs in all, one worker each, or for CPU workers when there are none.

    Args:
        workers: ``4`` or ``1-4``; None: one for each GPU, or two.
        memory: of each worker; None: 32Gi beside a GPU, else 4Gi.
        shm: /dev/shm of each pod; None: a quarter of the pod's memory.

    Raises:
        ConfigError: numbers that do not go together.
    """
    if gpus < 0 or gpus_per_node < 1 or (cpus_per_worker is not None and cpus_per_worker < 1):
        raise ConfigError("--gpus, --gpus-per-node, --cpus-per-worker: expected positive numbers")
    if gpus and gpus % gpus_per_node:
        raise ConfigError(
            f"--gpus {gpus} is no multiple of --gpus-per-node {gpus_per_node}: all worker pods are "
            "alike; change one of them"
        )
    asked = parse_workers(workers or str(gpus or 2))
    if gpus and asked.most != gpus:
        raise ConfigError(
            f"--workers {workers}: each worker trains on one GPU, and --gpus is {gpus}; leave "
            "--workers out, or give a range that ends there"
        )
    if asked.most == 0:
        raise ConfigError("--workers 0: a pod is a worker; give 1 or more")
    per_pod = gpus_per_node if gpus else 1
    cpus = cpus_per_worker or (8 if gpus else 2)
    each = parse_bytes(memory, option="--memory") if memory else (32 if gpus else 4) * GIB
    memory_bytes = each * per_pod
    shm_bytes = parse_bytes(shm, option="--shm") if shm else memory_bytes // 4
    if shm_bytes > memory_bytes // 2:
        raise ConfigError(
            f"--shm {shm}: counts against the pod's memory ({shown_bytes(memory_bytes)}), half of "
            "which is the most it may take; raise --memory or lower --shm"
        )
    return Size(
        workers=asked,
        pods=asked.most // per_pod,
        gpus=per_pod if gpus else 0,
        cpus=cpus * per_pod,
        cpus_per_worker=cpus,
        memory_bytes=memory_bytes,
        shm_bytes=shm_bytes,
    )


def default_image(*, gpus: int) -> str:
    """The name under which k8s/README.md builds this version."""
    return f"img2shape:{metadata.version('img2shape')}-{'cuda' if gpus else 'cpu'}"


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    """``value``, or a ConfigError with the nearest of ``known``."""
    if value not in known:
        raise ConfigError(f"{option} '{value}': one of {', '.join(known)}{nearest(value, known)}")
    return value


def object_name(text: str) -> str:
    """A name for objects made of any ``text``, such as a file's."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.casefold()).strip("-")
    return (plain if plain[:1].isalpha() else f"run-{plain}")[:_LONGEST_NAME].rstrip("-")


def require_name(option: str, value: str) -> str:
    """``value`` if Kubernetes takes it as a name and KubeRay has room for its endings.

    Raises:
        ConfigError: it does not.
    """
    if not _NAME.fullmatch(value) or len(value) > _LONGEST_NAME:
        raise ConfigError(
            f"{option} '{value}': up to {_LONGEST_NAME} small letters, digits and hyphens, a "
            f"letter first; e.g. {object_name(value)}"
        )
    return value
