"""What a run shows of itself while it lives: Prometheus metrics, dashboards and alerts.

May import: trainer, evalsuite, cluster.terminal.
"""

from cluster.monitoring.alerts import rule_groups
from cluster.monitoring.dashboard_json import dashboards
from cluster.monitoring.exported_metrics import SWEEP_STATES
from cluster.monitoring.exporter import PORTS, Exporter
from cluster.monitoring.families import Families
from cluster.monitoring.run_monitoring import monitored
from cluster.monitoring.written import write_files

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
