"""How a checkpoint is chosen among those of a run: criteria that need no label, and selections.

May import: trainer.methods.
"""

from trainer.choosing import criteria
from trainer.choosing.criteria import CRITERIA, LOWER_IS_BETTER, UNSUPERVISED, source_accuracy
from trainer.choosing.selection import (
    SELECTIONS,
    criterion_place,
    criterion_refusal,
    criterion_selections,
)

__all__ = [
    "CRITERIA",
    "LOWER_IS_BETTER",
    "SELECTIONS",
    "UNSUPERVISED",
    "criteria",
    "criterion_place",
    "criterion_refusal",
    "criterion_selections",
    "source_accuracy",
]
