"""What is asked of a rendering: names, sizes and storage, checked before anything is rendered."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from cluster.training import GroupSize, parse_workers
from dataio.names import nearest
from trainer.config import ConfigError

Job = Literal["train", "sweep", "eval", "cluster"]
JOBS = ("train", "sweep", "eval", "cluster")
QUEUES = ("kueue", "volcano")
RAY_VERSION = "2.60.0"  # of the images; k8s/Dockerfile.* install the same
GIB = 1 << 30
_UNITS = {"Mi": 1 << 20, "Gi": GIB, "Ti": 1 << 40}

# KubeRay appends six characters to a RayJob's name and allows 53 for the cluster's (DNS-1035).
_LONGEST_NAME = 47
_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_CLAIM = re.compile(r"pvc:([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(?::(.+))?")
_BUCKET = re.compile(r"(?:s3|gs)://[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9._/-]*)?")


@dataclass(frozen=True)
class Size:
    """Pods and what each has.

    Attributes:
        workers: processes that train, over all pods.
        pods: worker pods; the head is one more and trains nothing.
        gpus: of each pod.
        cpus: of each pod.
        cpus_per_worker: threads of each process.
        memory_bytes: of each pod, including ``shm_bytes`` of /dev/shm.
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
class Storage:
    """A shared volume for runs and data, and perhaps a bucket that data are read from.

    Runs need the volume: a bucket has no locks, no appended logs and no renames that replace.

    Attributes:
        claim: name of the PersistentVolumeClaim that all pods mount.
        size: of a claim to be made, e.g. ``100Gi``; None: the claim exists.
        storage_class: of a claim to be made; None: the cluster's default.
        bucket: URL below which relative data roots lie; None: below the volume.
    """

    claim: str
    size: str | None = None
    storage_class: str | None = None
    bucket: str | None = None


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
        ConfigError: numbers that do not fit together.
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


def parse_storage(texts: Sequence[str], *, storage_class: str | None = None) -> Storage:
    """``pvc:CLAIM`` or ``pvc:CLAIM:SIZE``, and besides ``s3://BUCKET/PREFIX`` or ``gs://...``.

    Raises:
        ConfigError: no volume, two of a kind, or anything else.
    """
    claims = [found for text in texts if (found := _CLAIM.fullmatch(text))]
    buckets = [text.rstrip("/") for text in texts if _BUCKET.fullmatch(text)]
    for text in texts:
        if not _CLAIM.fullmatch(text) and not _BUCKET.fullmatch(text):
            # A text with credentials is not repeated.
            head, mark, rest = text.partition("://")
            told = f"{head}{mark}..." if mark and "@" in rest else text
            raise ConfigError(
                f"--storage '{told}': expected pvc:CLAIM, pvc:CLAIM:SIZE, s3://BUCKET/"
                "PREFIX or gs://BUCKET/PREFIX, without credentials (--secret names those)"
            )
    if not claims:
        raise ConfigError(
            f"--storage {buckets[0] if buckets else ''}: a bucket can hold data, but no run folder "
            "(no locks, no renames); add --storage pvc:CLAIM:SIZE for the runs"
        )
    if len(claims) > 1 or len(buckets) > 1:
        raise ConfigError("--storage: one volume and one bucket at most; leave the others out")
    size = claims[0][3]
    if size is not None:
        parse_bytes(size, option="--storage pvc:CLAIM:SIZE")
    elif storage_class is not None:
        raise ConfigError(
            "--storage-class: is of a claim to be made; give its size, --storage pvc:CLAIM:SIZE"
        )
    return Storage(claims[0][1], size, storage_class, buckets[0] if buckets else None)


def parse_bytes(text: str, *, option: str) -> int:
    """Bytes of an amount as Kubernetes writes it, such as ``16Gi``.

    Raises:
        ConfigError: anything else, naming ``option``.
    """
    found = re.fullmatch(r"([1-9]\d{0,8})(Mi|Gi|Ti)", text.strip())
    if found is None:
        raise ConfigError(
            f"{option} '{text}': expected a whole number with Mi, Gi or Ti, like 16Gi"
        )
    return int(found[1]) * _UNITS[found[2]]


def shown_bytes(size_bytes: int) -> str:
    """``size_bytes`` as Kubernetes writes it, rounded up to whole MiB."""
    mebibytes = -(-size_bytes // _UNITS["Mi"])
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"


def default_image(*, gpus: int) -> str:
    """The name under which k8s/README.md builds this version."""
    return f"img2shape:{metadata.version('img2shape')}-{'cuda' if gpus else 'cpu'}"


def one_of(option: str, value: str, known: tuple[str, ...]) -> str:
    """``value``, or a ConfigError with the nearest of ``known``."""
    if value not in known:
        raise ConfigError(f"{option} '{value}': one of {', '.join(known)}{nearest(value, known)}")
    return value


def object_name(text: str) -> str:
    """A name for Kubernetes made of any ``text``, such as a file's name."""
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
