"""Prometheus metrics of runs and sweeps while they work, and the shipped dashboards and alerts.

May import: trainer, evalsuite, cluster.terminal.
"""

from cluster.monitoring.exported_metrics import SWEEP_STATES
from cluster.monitoring.exporter import PORTS, Exporter
from cluster.monitoring.families import Families
from cluster.monitoring.run_monitoring import monitored
from cluster.monitoring.shipped import dashboards, rule_groups, write_files

__all__ = [
    "PORTS",
    "SWEEP_STATES",
    "Exporter",
    "Families",
    "dashboards",
    "monitored",
    "rule_groups",
    "write_files",
]
