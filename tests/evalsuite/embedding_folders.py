"""Folders of embeddings, written from embeddings in memory."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from evalsuite.vectors.embedding_parts import Dtype, EmbeddingParts
from evalsuite.vectors.embeddings import Embeddings
from evalsuite.vectors.parts_writer import MOST_ROWS, PartsWriter


def write_parts(
    folder: str | Path,
    embeddings: Embeddings,
    *,
    fingerprint: str | None = None,
    dtype: Dtype = "float32",
    part_rows: int = MOST_ROWS,
) -> EmbeddingParts:
    """Write embeddings that are in memory as parts; ``fingerprint`` defaults to their own hash."""
    total = len(embeddings)
    writer = PartsWriter(
        Path(folder),
        fingerprint=fingerprint or _fingerprint(embeddings),
        total=total,
        dtype=dtype,
        part_rows=part_rows,
    )
    parts = writer.begin()
    for number in range(len(writer)):
        if number not in parts:
            rows = slice(writer.rows(number).start, writer.rows(number).stop)
            keys, labels = embeddings.keys[rows], embeddings.labels[rows]
            shown = embeddings.instances[rows]
            part = Embeddings(keys, labels, embeddings.vectors[rows], instances=shown)
            parts[number] = writer.write(number, part)
    return writer.finish(parts.values())


def _fingerprint(embeddings: Embeddings) -> str:
    names = json.dumps([embeddings.width, embeddings.keys, embeddings.labels])
    digest = hashlib.sha256(names.encode())
    digest.update(embeddings.vectors.tobytes())
    return digest.hexdigest()
