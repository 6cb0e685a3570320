"""Losses as pure functions of features and statistics, on the global batch.

Each works on plain tensors in one process; inside a process group each rank passes its own rows
and every rank gets the same global value (see :mod:`trainer.collectives` for the gradient rule).
"""

from trainer.losses.adversarial import adversarial
from trainer.losses.centers import center_alignment, instance_alignment
from trainer.losses.classification import accuracy, cross_entropy

__all__ = [
    "accuracy",
    "adversarial",
    "center_alignment",
    "cross_entropy",
    "instance_alignment",
]
