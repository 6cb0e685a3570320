"""JGSA: two coupled projections of source and target embeddings, in linear form.

A and B may differ in scale, and differ more for larger β. So retrieve by cosine distance.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from trainer.methods.shallow import ShallowConfig, ShallowMethod
from trainer.shallow import fit_jgsa


class JgsaConfig(ShallowConfig):
    """Joint geometrical and statistical alignment of frozen embeddings, linear form."""

    unit_length: bool = Field(
        default=True,
        description="Scale every standardised embedding to length 1, as the authors' code does: "
        "the scatters are sums over samples, beside which λ and μ would otherwise vanish.",
    )
    dimension: int = Field(default=30, ge=1, description="Width of the shared subspace; at most D.")
    beta: float = Field(
        default=0.1, ge=0, description="β: weight of the source's class scatter (0.1 for objects)."
    )
    mu: float = Field(default=1.0, gt=0, description="μ: weight of the target's variance.")
    lam: float = Field(
        default=1.0, gt=0, description="λ: weight of the divergence of the two projections."
    )
    iterations: int = Field(default=10, ge=1, description="T: rounds of pseudo-labels at most.")


class Jgsa(ShallowMethod):
    name = "jgsa"
    paper = "Zhang, Li and Ogunbona, CVPR 2017"
    Config = JgsaConfig

    def fit(
        self, source: np.ndarray, labels: np.ndarray, target: np.ndarray
    ) -> dict[str, np.ndarray]:
        config = self.config
        found = fit_jgsa(
            source,
            labels,
            target,
            num_classes=self.num_classes,
            dimension=config.dimension,
            beta=config.beta,
            mu=config.mu,
            lam=config.lam,
            iterations=config.iterations,
        )
        return {"source_map": found.source_map, "target_map": found.target_map}
