"""Whom the pods of a job may talk to: each other, DNS, the servers that they read data from, and
Prometheus. Everything else is refused."""

from __future__ import annotations

from typing import Any

from cluster.kubernetes.options import Options
from cluster.kubernetes.pods import METRICS_PORT_NAME, selector

_RAY_METRICS_PORT = 8080  # of each Ray node, opened by KubeRay
_DASHBOARD_PORT = 8265
# Addresses of the node itself, among them the cloud's service for credentials.
_LINK_LOCAL = "169.254.0.0/16"
_NODE_LOCAL_DNS = "169.254.20.10/32"


def network_policies(
    options: Options, *, metadata: dict[str, Any], ports: tuple[int, ...]
) -> list[dict[str, Any]]:
    """NetworkPolicies for the pods of one job; ``ports``: TCP ports of servers outside."""
    pods = {"podSelector": {"matchLabels": selector(options)}}
    found = {
        "deny": {"policyTypes": ["Ingress", "Egress"]},
        "dns": _dns(),
        "ray": {
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [pods]}],  # Ray's workers choose their ports
            "egress": [{"to": [pods]}],
        },
        "operator": {
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [_operator()], "ports": [_tcp(_DASHBOARD_PORT)]}],
        },
    }
    if ports:
        outside = {"ipBlock": {"cidr": "0.0.0.0/0", "except": [_LINK_LOCAL]}}
        found["data"] = {
            "policyTypes": ["Egress"],
            "egress": [{"to": [outside], "ports": [_tcp(port) for port in ports]}],
        }
    if options.monitoring:
        found["metrics"] = {
            "policyTypes": ["Ingress"],
            "ingress": [
                {
                    "from": [_namespace(options.monitoring_namespace)],
                    "ports": [_tcp(METRICS_PORT_NAME), _tcp(_RAY_METRICS_PORT)],
                }
            ],
        }
    return [
        _policy(f"{options.name}-{name}", {**pods, **spec}, metadata=metadata)
        for name, spec in found.items()
    ]


def namespace_policies(*, metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """For all pods of the namespace: DNS alone, unless a job's own policies allow more."""
    every: dict[str, Any] = {"podSelector": {}}
    deny = {**every, "policyTypes": ["Ingress", "Egress"]}
    return [
        _policy("default-deny", deny, metadata=metadata),
        _policy("default-dns", {**every, **_dns()}, metadata=metadata),
    ]


def _policy(name: str, spec: dict[str, Any], *, metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {**metadata, "name": name},
        "spec": spec,
    }


def _dns() -> dict[str, Any]:
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    to = [_namespace("kube-system"), {"ipBlock": {"cidr": _NODE_LOCAL_DNS}}]
    return {"policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]}


def _operator() -> dict[str, Any]:
    """KubeRay's operator in any namespace: it asks Ray's dashboard for the state of the job."""
    return {
        "namespaceSelector": {},
        "podSelector": {"matchLabels": {"app.kubernetes.io/component": "kuberay-operator"}},
    }


def _namespace(name: str) -> dict[str, Any]:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}}


def _tcp(port: int | str) -> dict[str, Any]:
    return {"protocol": "TCP", "port": port}
