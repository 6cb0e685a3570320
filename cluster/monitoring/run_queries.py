"""How the dashboard of runs asks for a run's series.

Queries take the maximum or the sum over whatever else Prometheus tells series apart by (instances,
pods), so that a run shows one line, also while a retried job overlaps with its predecessor.
"""

from __future__ import annotations

OF = '{run=~"$run"}'
RATE = "[$__rate_interval]"


def latest(name: str, *labels: str) -> str:
    """A gauge's value, one series for each run and value of ``labels``."""
    return f"max by ({', '.join(('run', *labels))}) (img2shape_{name}{OF})"


def rate(name: str, *labels: str, where: str = OF) -> str:
    """A counter's increase a second."""
    return f"sum by ({', '.join(('run', *labels))}) (rate(img2shape_{name}{where}{RATE}))"
