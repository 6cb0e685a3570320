"""From a run description or a sweep file to all objects that Kubernetes needs for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from cluster.kubernetes.descriptions import Description, read_run, read_sweep
from cluster.kubernetes.monitoring_objects import monitoring_objects
from cluster.kubernetes.network import network_policies
from cluster.kubernetes.options import Options, Storage
from cluster.kubernetes.pods import SHARED_LABELS, labels
from cluster.kubernetes.ray_objects import ray_cluster, ray_job

Manifest = dict[str, Any]


def render(path: Path, overrides: Sequence[str], options: Options) -> list[Manifest]:
    """All objects, in an order in which they can be applied.

    Raises:
        ConfigError: the description does not fit, or names what the pods cannot see.
    """
    read = read_sweep if options.job == "sweep" else read_run
    description = read(
        path, overrides, bucket=options.storage.bucket, monitoring=options.monitoring
    )
    metadata = {
        "namespace": options.namespace,
        "labels": labels(options, component=options.job),
    }
    make = ray_cluster if options.job == "cluster" else ray_job
    found = [service_account(options)]
    if options.storage.size is not None:
        found.append(volume_claim(options.storage, metadata=shared(options)))
    found += [
        _config_map(options, description, metadata=metadata),
        *network_policies(options, metadata=metadata, ports=description.ports),
        make(options, metadata=metadata, metrics_port=description.metrics_port),
    ]
    if options.monitoring:
        found += monitoring_objects(options, metadata=metadata)
    return found


def to_yaml(objects: Sequence[Manifest]) -> str:
    """All objects as the documents of one YAML file, texts in block style."""
    return "---\n".join(
        yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=120) for manifest in objects
    )


def service_account(options: Options) -> Manifest:
    """An account without rights, whose token no pod gets."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {**shared(options), "name": "img2shape"},
        "automountServiceAccountToken": False,
    }


def volume_claim(storage: Storage, *, metadata: Manifest) -> Manifest:
    """The PersistentVolumeClaim; several nodes write to it, so it is ReadWriteMany."""
    spec: Manifest = {
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


def _config_map(options: Options, description: Description, *, metadata: Manifest) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**metadata, "name": f"{options.name}-config"},
        "data": dict(description.files),
    }


def shared(options: Options) -> Manifest:
    """Metadata of objects that several runs of a namespace share: it names no run."""
    return {"namespace": options.namespace, "labels": dict(SHARED_LABELS)}


class _Dumper(yaml.SafeDumper):
    """Writes no anchors, which are hard to read, and texts of several lines as blocks."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
