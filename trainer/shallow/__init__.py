"""Shallow domain adaptation on frozen embeddings: pure functions on float64 NumPy arrays.

May import: nothing of this project.
"""

from __future__ import annotations

from trainer.shallow.coral import fit_coral
from trainer.shallow.gfk import fit_gfk
from trainer.shallow.jgsa import JgsaFit, fit_jgsa
from trainer.shallow.meda import MedaFit, MedaWeights, fit_meda
from trainer.shallow.standardisation import (
    Standardisation,
    StandardisationKind,
    evenly_spaced,
    unit_rows,
)

__all__ = [
    "JgsaFit",
    "MedaFit",
    "MedaWeights",
    "Standardisation",
    "StandardisationKind",
    "evenly_spaced",
    "fit_coral",
    "fit_gfk",
    "fit_jgsa",
    "fit_meda",
    "unit_rows",
]
