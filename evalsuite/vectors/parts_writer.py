"""Writing the embeddings of a stream as parts: by many processes at once, resumable, atomic."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from evalsuite.atomic import write_atomically, write_text_atomically
from evalsuite.vectors.embedding_parts import (
    DAMAGED,
    FORMAT,
    MANIFEST_NAME,
    Dtype,
    EmbeddingParts,
    Part,
    content_digest,
    encoded,
    file_sha256,
    open_parts,
    part_metadata,
    part_name,
    part_table,
    part_width,
)
from evalsuite.vectors.embeddings import Embeddings, EvaluationError

PARTS_WANTED, MOST_ROWS = 256, 16_384
# Exactly twelve digits, so that a part-00000.parquet of another program is never removed.
PART_FILES = f"part-{12 * '[0-9]'}.parquet"


def default_part_rows(total: int, *, batch: int) -> int:
    """Rows of a part of a stream of ``total`` items that are made ``batch`` at a time.

    A multiple of ``batch`` that depends on the two arguments alone, so that every call that
    continues a stream cuts it in the same way.
    """
    wanted = min(max(1, -(-total // PARTS_WANTED)), MOST_ROWS)
    return -(-wanted // batch) * batch


@dataclass(frozen=True)
class PartsWriter:
    """Writes the embeddings of a stream of ``total`` items as parts of ``part_rows`` rows.

    ``fingerprint`` says what made them (checkpoint and data). One process calls :meth:`begin`, any
    number of processes :meth:`write` different parts at once, then one calls :meth:`finish`.

    Raises ``EvaluationError`` for an empty stream, ``part_rows`` < 1 or an unknown dtype.
    """

    folder: Path
    _: KW_ONLY
    fingerprint: str
    total: int
    dtype: Dtype = "float32"
    part_rows: int

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise EvaluationError(
                f"dtype={self.dtype!r}: expected one of {', '.join(get_args(Dtype))}"
            )
        if self.total < 1 or self.part_rows < 1:
            raise EvaluationError(
                f"{self.total} items in parts of {self.part_rows} rows; both must be at least 1"
            )

    def __len__(self) -> int:
        """How many parts the stream is cut into."""
        return -(-self.total // self.part_rows)

    def rows(self, number: int) -> range:
        """The stream's rows that part ``number`` (0-based) holds."""
        first = number * self.part_rows
        return range(first, min(first + self.part_rows, self.total))

    def begin(self) -> dict[int, Part]:
        """The parts by number that are there and whole; everything else is removed.

        Removed are parts of another fingerprint, dtype or cut, torn or altered parts, and temporary
        files of killed writers. The manifest is removed first, so that no reader takes old for new.
        """
        kept = {number: part for number in range(len(self)) if (part := self.whole(number))}
        manifest = self.folder / MANIFEST_NAME
        if manifest.exists() and not self._is_current(kept):
            manifest.unlink()
        names = {part.file for part in kept.values()}
        for path in [*self.folder.glob(PART_FILES), *self._leftovers()]:
            if path.name not in names:
                path.unlink(missing_ok=True)
        return kept

    def whole(self, number: int) -> Part | None:
        """Part ``number`` if it is there, of these embeddings, and its content has its hash."""
        rows = self.rows(number)
        path = self.folder / part_name(rows.start)
        try:
            content = path.read_bytes()
            table = part_table(content)
            about = self._about(rows) | {"digest": content_digest(table)}
            whole = part_metadata(table) == about and table.num_rows == len(rows)
            part = Part(path.name, rows.start, len(rows), part_width(table), file_sha256(content))
        except DAMAGED:
            return None
        return part if whole else None

    def write(self, number: int, embeddings: Embeddings) -> Part:
        """Write part ``number`` atomically; its rows are ``embeddings``, NaN and Inf included.

        Raises ``EvaluationError``: another number of rows than the part has, or a finite value
        beyond the range of float16.
        """
        rows = self.rows(number)
        if len(embeddings) != len(rows):
            raise EvaluationError(
                f"{self.folder}: part {number} holds rows {rows.start} to {rows.stop - 1}, got "
                f"{len(embeddings)} embeddings; give one for each row"
            )
        content = encoded(
            embeddings.keys,
            embeddings.labels,
            self._stored(embeddings),
            first=rows.start,
            about=self._about(rows),
            instances=embeddings.instances,
        )
        path = self.folder / part_name(rows.start)
        write_atomically(path, lambda temporary: temporary.write_bytes(content))
        return Part(path.name, rows.start, len(rows), embeddings.width, file_sha256(content))

    def finish(self, parts: Iterable[Part]) -> EmbeddingParts:
        """Write the manifest of ``parts``, what :meth:`begin` has kept and :meth:`write` made.

        Raises ``EvaluationError`` naming rows that are missing or there twice, keys that are there
        twice, or two widths.
        """
        listed = tuple(sorted(parts, key=lambda part: (part.first, part.file)))
        found = EmbeddingParts(self.folder, self.fingerprint, self.dtype, self.total, listed)
        found.require_complete()
        _ = found.keys  # raises if a key is there twice
        if not self._is_current(dict(enumerate(listed))):
            text = json.dumps(found.to_json(), indent=1)
            manifest = self.folder / MANIFEST_NAME
            write_text_atomically(manifest, text + "\n")
        for left in self._leftovers():
            left.unlink(missing_ok=True)
        return found

    def _is_current(self, parts: dict[int, Part]) -> bool:
        """Whether the manifest on disk is the one of ``parts``, and these are all."""
        try:
            known = open_parts(self.folder)
        except EvaluationError:
            return False
        named = tuple(parts[number] for number in sorted(parts))
        return len(parts) == len(self) and known == EmbeddingParts(
            self.folder, self.fingerprint, self.dtype, self.total, named
        )

    def _leftovers(self) -> list[Path]:
        return [*self.folder.glob(f".{PART_FILES}.*"), *self.folder.glob(f".{MANIFEST_NAME}.*")]

    def _about(self, rows: range) -> dict[str, str]:
        """What a part carries in its metadata, besides the digest of its content."""
        return {
            "format": FORMAT,
            "fingerprint": self.fingerprint,
            "dtype": self.dtype,
            "total": str(self.total),
            "first": str(rows.start),
            "rows": str(len(rows)),
        }

    def _stored(self, embeddings: Embeddings) -> np.ndarray:
        """The vectors [n, D] in the dtype of the file."""
        if self.dtype == "float32":
            return embeddings.vectors
        with np.errstate(over="ignore"):
            stored = embeddings.vectors.astype(np.float16)
        lost = (np.isinf(stored) & np.isfinite(embeddings.vectors)).any(axis=1)
        if lost.any():
            row = int(np.flatnonzero(lost)[0])
            largest = np.nanmax(np.abs(embeddings.vectors[row]))
            raise EvaluationError(
                f"{self.folder}: {embeddings.keys[row]!r} has a component of size {largest:.6g}, "
                "beyond the range of float16 (65504); write them with dtype float32"
            )
        return stored
