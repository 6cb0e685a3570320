"""The folder ``k8s``: what a namespace needs once, and examples of jobs on top of it.

The files are written by `img2shape k8s base`, with the code that renders single jobs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.kubernetes.network import namespace_policies
from cluster.kubernetes.options import Job, Options, Storage, default_image, size_of
from cluster.kubernetes.rendering import (
    Manifest,
    render,
    service_account,
    shared,
    to_yaml,
    volume_claim,
)

_CONFIG = Path(__file__).resolve().parents[2] / "configs" / "procedural" / "astn.yaml"
_NAMESPACE = "img2shape"
_STORAGE = Storage("img2shape", size="200Gi")
_GPUS = 4
_HEADER = "# Written by `img2shape k8s base`; change the code or a copy.\n"
_DASHBOARDS = "img2shape-dashboards"


def kustomize_files() -> dict[str, str]:
    """Every YAML file below ``k8s`` by its path."""
    train, monitoring = _split(render(_CONFIG, (), _options("train", gpus=_GPUS)))
    cluster, _ = _split(render(_CONFIG, (), _options("cluster", gpus=0)))
    made = {
        "base": {"resources": {"namespace.yaml": _base()}},
        "overlays/cpu-dev": {"above": "../../base", "resources": {"cluster.yaml": cluster}},
        "overlays/gpu": {"above": "../../base", "resources": {"train.yaml": train}},
        "overlays/kueue": {"above": "../gpu", "resources": {}, "patches": [_kueue_patch()]},
        "overlays/monitoring": {"above": "../gpu", "resources": {"monitoring.yaml": monitoring}},
    }
    found = {}
    for folder, parts in made.items():
        found[f"{folder}/kustomization.yaml"] = _kustomization(**parts)
        for name, objects in parts["resources"].items():
            found[f"{folder}/{name}"] = _HEADER + to_yaml(objects)
    return found


def _base() -> list[Manifest]:
    options = _options("train", gpus=0)
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": _NAMESPACE,
                "labels": {
                    **shared(options)["labels"],
                    "pod-security.kubernetes.io/enforce": "restricted",
                    "pod-security.kubernetes.io/warn": "restricted",
                },
            },
        },
        service_account(options),
        volume_claim(_STORAGE, metadata=shared(options)),
        *namespace_policies(metadata=shared(options)),
    ]


def _options(job: Job, *, gpus: int) -> Options:
    name = "astn" if job == "train" else "astn-dev"
    return Options(
        job=job,
        name=name,
        size=size_of(gpus=gpus),
        storage=Storage(_STORAGE.claim),
        image=default_image(gpus=gpus),
        run=name,
        namespace=_NAMESPACE,
    )


def _split(objects: list[Manifest]) -> tuple[list[Manifest], list[Manifest]]:
    """The job's objects that the base does not have, and those for monitoring."""
    monitoring = [
        manifest
        for manifest in objects
        if manifest["apiVersion"].startswith("monitoring.coreos.com/")
        or manifest["metadata"]["name"] == _DASHBOARDS
    ]
    own = [o for o in objects if o not in monitoring and o["kind"] != "ServiceAccount"]
    return own, monitoring


def _kustomization(
    *,
    resources: dict[str, list[Manifest]],
    above: str | None = None,
    patches: list[dict[str, Any]] | None = None,
) -> str:
    content: dict[str, Any] = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [*([above] if above else []), *resources],
    }
    if patches:
        content["patches"] = patches
    return _HEADER + to_yaml([content])


def _kueue_patch() -> dict[str, Any]:
    operations = [
        {"op": "add", "path": "/metadata/labels/kueue.x-k8s.io~1queue-name", "value": "img2shape"},
        {"op": "add", "path": "/spec/suspend", "value": True},
        {"op": "remove", "path": "/spec/preRunningDeadlineSeconds"},
    ]
    lines = to_yaml([{"patch": operations}]).removeprefix("patch:\n")
    return {"target": {"group": "ray.io", "kind": "RayJob"}, "patch": lines}
