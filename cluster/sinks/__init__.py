"""Sinks: the numbers of a run for TensorBoard, MLflow or Weights & Biases.

May import: dataio, trainer, evalsuite, cluster.terminal.
"""

from cluster.sinks.sinks import open_sinks, reporting

__all__ = ["open_sinks", "reporting"]
