"""What violates the ``restricted`` profile of Kubernetes' pod security in rendered objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

VOLUMES = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret", "downwardAPI"}


def violations(objects: Iterable[dict[str, Any]]) -> list[str]:
    """What :func:`restricted_findings` finds in all pods of ``objects``."""
    return [
        f"{manifest['kind']} {manifest['metadata']['name']}: {finding}"
        for manifest in objects
        for spec in pod_specs(manifest)
        for finding in restricted_findings(spec)
    ]


def pod_specs(value: Any) -> Iterator[dict[str, Any]]:
    """Specs of all pod templates anywhere in an object."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for inner in value.values():
            yield from pod_specs(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from pod_specs(inner)


def restricted_findings(spec: dict[str, Any]) -> Iterator[str]:
    """What violates the `restricted` profile of pod security, or our own rule on resources.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is set"
    for volume in spec.get("volumes", []):
        if not VOLUMES & volume.keys():
            yield f"volume {volume.get('name')} is of a kind that is not admitted"
    pod = spec.get("securityContext", {})
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for finding in _container_findings(container, pod):
            yield f"container {container.get('name')}: {finding}"


def _container_findings(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("privileged"):
        yield "is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if own.get("runAsUser", pod.get("runAsUser")) == 0:
        yield "runs as user 0"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []) or capabilities.get("add"):
        yield "does not drop all capabilities"
    profile = own.get("seccompProfile", pod.get("seccompProfile", {})).get("type")
    if profile not in ("RuntimeDefault", "Localhost"):
        yield "has no seccomp profile"
    if own.get("readOnlyRootFilesystem") is not True:
        yield "readOnlyRootFilesystem is not true"
    resources = container.get("resources", {})
    if not resources.get("limits") or resources.get("requests") != resources.get("limits"):
        yield "requests are not its limits"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield "takes a port of the host"
