"""What the Prometheus operator and Grafana's sidecar pick up."""

from __future__ import annotations

import json
from typing import Any

from cluster.kubernetes.options import Options
from cluster.kubernetes.pods import METRICS_PORT_NAME, SHARED_LABELS, selector

_INTERVAL = "15s"


def monitoring_objects(options: Options, *, metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """PodMonitor of the run, PrometheusRule with all alerts, ConfigMap with the dashboards.

    Alerts and dashboards are the files of ``k8s/monitoring``. They are the same for all runs and
    have the same names, so a second run adds no second copy.
    """
    from cluster.monitoring import dashboards, rule_groups

    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {**metadata, "name": "img2shape", "labels": dict(SHARED_LABELS)},
        "spec": {"groups": rule_groups()},
    }
    boards = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **metadata,
            "name": "img2shape-dashboards",
            "labels": {**SHARED_LABELS, "grafana_dashboard": "1"},
        },
        "data": {f"img2shape-{n}.json": _one_line(b) for n, b in dashboards().items()},
    }
    return [pod_monitor(options, metadata=metadata), rule, boards]


def pod_monitor(options: Options, *, metadata: dict[str, Any]) -> dict[str, Any]:
    """Scrapes the run's exporter on the head, and Ray's own metrics on all pods."""
    # KubeRay names the second one; an evaluation has no exporter, and would look like one down.
    ports = ("metrics",) if options.job == "eval" else (METRICS_PORT_NAME, "metrics")
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": {**metadata, "name": options.name},
        "spec": {
            "selector": {"matchLabels": selector(options)},
            "podTargetLabels": ["img2shape.io/run", "ray.io/node-type"],
            "podMetricsEndpoints": [{"port": port, "interval": _INTERVAL} for port in ports],
        },
    }


def _one_line(dashboard: dict[str, Any]) -> str:
    """The dashboard without line breaks: rendered objects stay short enough to read."""
    return json.dumps(dashboard, ensure_ascii=False, separators=(",", ":")) + "\n"
