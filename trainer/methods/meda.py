"""MEDA: manifold features by GFK, then a kernel classifier with dynamic distribution alignment.

    β = ((A + λM + ρL) K + ηI)⁻¹ A Y,   f(z) = Σ_i k(z_i, z) β_i

A query is embedded by its kernel values with the stored training points.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trainer.methods.shallow import ShallowConfig, ShallowMethod, Side
from trainer.networks import NetworkConfig
from trainer.shallow import MedaWeights, evenly_spaced, fit_gfk, fit_meda, unit_rows


class MedaConfig(ShallowConfig):
    """Manifold embedded distribution alignment of frozen embeddings."""

    features: Literal["scores", "manifold"] = Field(
        default="scores",
        description="Retrieval embedding: the K class scores f(z), or the manifold features z, on "
        "which only GFK has worked. Not given in the paper, which classifies.",
    )
    dimension: int | None = Field(
        default=20,
        ge=1,
        description="Dimension of GFK's subspaces; null: by the subspace disagreement measure.",
    )
    eta: float = Field(default=0.1, gt=0, description="η: weight of the norm of f.")
    lam: float = Field(default=10.0, ge=0, description="λ: weight of distribution alignment.")
    rho: float = Field(default=1.0, ge=0, description="ρ: weight of the Laplacian regulariser.")
    neighbors: int = Field(default=10, ge=1, description="p: neighbours in the graph.")
    mu: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="μ: 0 aligns the domains only, 1 the classes only; null: estimated.",
    )
    mmd: Literal["frobenius", "printed"] = Field(
        default="frobenius",
        description="Scale of the MMD matrix: unit norm as in the authors' code, or as printed, "
        "where alignment fades with the number of samples.",
    )
    laplacian: Literal["normalised", "plain"] = Field(
        default="normalised", description="As in the authors' code, or D - W as printed."
    )
    iterations: int = Field(default=10, ge=1, description="T: rounds of pseudo-labels at most.")
    max_samples: int | None = Field(
        default=4000,
        ge=1,
        description="Samples per domain that the classifier is fitted on, evenly spaced in the "
        "stream; null: all. It bounds memory (a few (n + m)² matrices) and time ((n + m)³). Not "
        "given in the paper.",
    )


class Meda(ShallowMethod):
    name = "meda"
    paper = "Wang, Feng, Chen, Yu, Huang and Yu, ACM Multimedia 2018"
    Config = MedaConfig

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        c = self.config
        self.weights = MedaWeights(
            eta=c.eta,
            lam=c.lam,
            rho=c.rho,
            neighbors=c.neighbors,
            mu=c.mu,
            mmd=c.mmd,
            laplacian=c.laplacian,
            iterations=c.iterations,
        )

    def fit(
        self, source: np.ndarray, labels: np.ndarray, target: np.ndarray
    ) -> dict[str, np.ndarray]:
        root = fit_gfk(source, target, dimension=self.config.dimension)
        maps = {"source_map": root, "target_map": root}
        if self.config.features == "manifold":
            return maps
        kept_s = evenly_spaced(len(source), self.config.max_samples)
        kept_t = evenly_spaced(len(target), self.config.max_samples)
        z_s, z_t = unit_rows(source[kept_s] @ root), unit_rows(target[kept_t] @ root)
        found = fit_meda(
            z_s, labels[kept_s], z_t, num_classes=self.num_classes, weights=self.weights
        )
        return {
            **maps,
            "points": np.concatenate([z_s, z_t]),
            "coefficients": found.coefficients,
            "variance": np.array(found.variance),
            "mu": np.array(found.mu),
        }

    def transform(self, x: Tensor, side: Side) -> Tensor:
        """Class scores ``[n, K]``, or manifold features of unit length ``[n, D]``."""
        z = torch.nn.functional.normalize(super().transform(x, side), dim=1)
        if self.config.features == "manifold":
            return z
        points, variance = self.fit_result["points"], self.fit_result["variance"]
        squares = (z * z).sum(1, keepdim=True) + (points * points).sum(1) - 2 * z @ points.T
        return torch.exp(-squares.clamp(min=0) / (2 * variance)) @ self.fit_result["coefficients"]
