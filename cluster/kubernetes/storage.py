"""Where the pods of a job find data and leave runs.

A run folder needs a file system: locks, renames that replace, and appended logs, none of which a
bucket has. So runs lie on a shared volume; data may be read from a bucket besides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.kubernetes.quantities import parse_bytes
from trainer.config import ConfigError

_CLAIM = re.compile(r"pvc:([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(?::(.+))?")
_BUCKET = re.compile(r"(?:s3|gs)://[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9._/-]*)?")


@dataclass(frozen=True)
class Storage:
    """A volume, and perhaps a bucket.

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


def parse_storage(texts: Sequence[str], *, storage_class: str | None = None) -> Storage:
    """``pvc:CLAIM``, ``pvc:CLAIM:SIZE``, and beside it ``s3://BUCKET/PREFIX`` or ``gs://...``.

    Raises:
        ConfigError: no volume, two of a kind, or anything else.
    """
    claims = [found for text in texts if (found := _CLAIM.fullmatch(text))]
    buckets = [text.rstrip("/") for text in texts if _BUCKET.fullmatch(text)]
    for text in texts:
        if not _CLAIM.fullmatch(text) and not _BUCKET.fullmatch(text):
            raise ConfigError(
                f"--storage '{_scheme(text)}': expected pvc:CLAIM, pvc:CLAIM:SIZE, s3://BUCKET/"
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


def _scheme(text: str) -> str:
    """What a message may show of a text that may hold a password."""
    head, mark, rest = text.partition("://")
    return f"{head}{mark}..." if mark and "@" in rest else text


def volume_claim(storage: Storage, *, metadata: dict[str, Any]) -> dict[str, Any]:
    """The PersistentVolumeClaim; several nodes write to it, so it is ReadWriteMany."""
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany"],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class is not None:
        spec["storageClassName"] = storage.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {**metadata, "name": storage.claim},
        "spec": spec,
    }
