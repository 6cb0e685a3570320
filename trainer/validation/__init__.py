"""Scores of a run during training, by a metric and by criteria without labels.

May import: dataio, trainer.choosing, trainer.config, trainer.extraction, trainer.inputs,
trainer.methods, trainer.runs, trainer.sections, trainer.synchronised, trainer.watching, evalsuite.
"""

from trainer.validation.validation import Validation, require_scorable

__all__ = ["Validation", "require_scorable"]
