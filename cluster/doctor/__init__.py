"""What ``img2shape doctor`` looks at before a run holds GPUs, each finding with its remedy.

Checks are pure functions of facts; ``examination`` gathers the facts and calls the checks.

May import: dataio, trainer, cluster, cluster.monitoring, cluster.training.
"""

from cluster.doctor.examination import examine
from cluster.doctor.findings import print_findings, summary

__all__ = ["examine", "print_findings", "summary"]
