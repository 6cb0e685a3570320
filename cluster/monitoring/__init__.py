"""What a run shows of itself while it lives: Prometheus metrics, dashboards and alerts."""
