"""CORAL: the covariance of source embeddings is made that of the target (eq. 1, algorithm 1).

Deep CORAL, which trains a network with this distance, is a method of its own.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from trainer.methods.shallow import ShallowConfig, ShallowMethod
from trainer.shallow import fit_coral


class CoralConfig(ShallowConfig):
    """Correlation alignment of frozen embeddings."""

    regularisation: float = Field(
        default=1.0, ge=0, description="λ: multiple of the identity added to both covariances."
    )


class Coral(ShallowMethod):
    name = "coral"
    paper = "Sun, Feng and Saenko, AAAI 2016"
    Config = CoralConfig

    def fit(
        self, source: np.ndarray, labels: np.ndarray, target: np.ndarray
    ) -> dict[str, np.ndarray]:
        aligned = fit_coral(source, target, regularisation=self.config.regularisation)
        return {"source_map": aligned, "target_map": np.eye(target.shape[1])}
