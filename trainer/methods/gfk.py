"""GFK: kernel of the geodesic flow between the PCA subspaces of source and target embeddings.

Both domains are mapped by the symmetric root of the kernel G, so that inner products of retrieval
embeddings are the paper's kernel.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from trainer.methods.shallow import ShallowConfig, ShallowMethod
from trainer.shallow import fit_gfk


class GfkConfig(ShallowConfig):
    """Geodesic flow kernel on frozen embeddings, PCA subspaces in both domains."""

    dimension: int | None = Field(
        default=None,
        ge=1,
        description="Dimension of the subspaces; null: by the subspace disagreement measure "
        "of the paper. Cut to the rank of the data.",
    )


class Gfk(ShallowMethod):
    name = "gfk"
    paper = "Gong, Shi, Sha and Grauman, CVPR 2012"
    Config = GfkConfig

    def fit(
        self, source: np.ndarray, labels: np.ndarray, target: np.ndarray
    ) -> dict[str, np.ndarray]:
        root = fit_gfk(source, target, dimension=self.config.dimension)
        return {"source_map": root, "target_map": root}
