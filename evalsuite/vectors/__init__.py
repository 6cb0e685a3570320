"""Embeddings with keys and labels: in memory, in one Parquet file, and in folders of parts.

May import: evalsuite.
"""

from evalsuite.vectors.embedding_parts import (
    Dtype,
    EmbeddingParts,
    Part,
    is_finished,
    open_parts,
)
from evalsuite.vectors.embeddings import (
    Embeddings,
    EvaluationError,
    non_finite_rows,
    require_finite,
    require_same_width,
    write_embeddings,
)
from evalsuite.vectors.parts_writer import PartsWriter, default_part_rows
from evalsuite.vectors.reading import read_embeddings

__all__ = [
    "Dtype",
    "EmbeddingParts",
    "Embeddings",
    "EvaluationError",
    "Part",
    "PartsWriter",
    "default_part_rows",
    "is_finished",
    "non_finite_rows",
    "open_parts",
    "read_embeddings",
    "require_finite",
    "require_same_width",
    "write_embeddings",
]
