"""What ``img2shape doctor`` looks at. Checks are pure functions of facts; ``examination`` gathers
the facts.

May import: dataio, trainer, cluster, cluster.monitoring, cluster.training.
"""

from cluster.doctor.examination import examine
from cluster.doctor.findings import summary
from cluster.doctor.table import print_findings

__all__ = ["examine", "print_findings", "summary"]
