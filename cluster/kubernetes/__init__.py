"""What ``img2shape k8s`` makes: objects for Kubernetes with the KubeRay operator.

May import: dataio, trainer, cluster.monitoring, cluster.sweeps, cluster.training.
"""

from cluster.kubernetes.descriptions import is_sweep
from cluster.kubernetes.kustomize import kustomize_files
from cluster.kubernetes.options import (
    JOBS,
    QUEUES,
    Options,
    default_image,
    object_name,
    one_of,
    parse_storage,
    require_name,
    size_of,
)
from cluster.kubernetes.rendering import render, to_yaml
from cluster.kubernetes.validate import KUBERNETES_VERSION, check

__all__ = [
    "JOBS",
    "KUBERNETES_VERSION",
    "QUEUES",
    "Options",
    "check",
    "default_image",
    "is_sweep",
    "kustomize_files",
    "object_name",
    "one_of",
    "parse_storage",
    "render",
    "require_name",
    "size_of",
    "to_yaml",
]
