"""One gallery shard in a Ray actor: the source of its vectors, and its answers.

Every actor imports this file, so it imports neither torch nor trainer.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from evalsuite.scoring import GalleryShard
from evalsuite.vectors import EvaluationError


@dataclass(frozen=True, eq=False)
class ShardSource:
    """What a shard is built from, at first and after each restart of its process.

    ``rows`` int64 [G] are the global indices of its items, ``labels`` their class names and
    ``instances`` the names of their objects, where these are asked for. The vectors are
    ``vectors`` float32 [G, D], or else rows of the folder ``parts`` of Parquet files.
    """

    rows: np.ndarray
    labels: list[str]
    vectors: np.ndarray | None = None
    parts: str = ""
    instances: list[str] = field(default_factory=list)

    def shard(self, options: Mapping[str, Any]) -> GalleryShard:
        """The shard; ``options`` are those of ``GalleryShard``.

        Raises ``EvaluationError``: this node does not see the folder, or as ``open_parts``.
        """
        vectors = self._read() if self.vectors is None else self.vectors
        return GalleryShard(vectors, self.labels, self.rows, instances=self.instances, **options)

    def _read(self) -> np.ndarray:
        if not Path(self.parts).is_dir():
            raise EvaluationError(
                f"{self.parts}: no such folder on {os.uname().nodename}; gallery shards read it "
                "where they run: keep it on storage that all nodes share"
            )
        from evalsuite.vectors import open_parts

        return open_parts(self.parts).vectors(self.rows)


class ShardActor:
    """Answers the questions of the evaluator's protocol from its own copy of the vectors."""

    def __init__(self, options: dict[str, Any], threads: int) -> None:
        # numba is loaded later and reads this variable. NumPy's library is loaded, so it is told.
        os.environ["NUMBA_NUM_THREADS"] = str(threads)
        threadpool_limits(threads)
        self._options = options
        self._shard: GalleryShard | None = None
        self._birth = secrets.token_hex(8)

    def call(self, source: list[Any], method: str, *args: Any) -> tuple[str, Any]:
        """The answer of ``method``, after a name that no other start of this shard has.

        Every question carries the ``source``, a list of one Ray reference. The first question after
        a start builds the shard. So the actor is ready as soon as it has a place, an error while
        building reaches the caller as it is, and a start needs nothing that a lost node held.
        """
        if self._shard is None:
            import ray

            held: Any = ray.get(source[0])
            self._shard = held.shard(self._options)
        return self._birth, getattr(self._shard, method)(*(owned(arg) for arg in args))


def owned(value: Any) -> Any:
    """Copies of arrays in Ray's object store, where they are read-only and hold memory."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple | list):
        return type(value)(owned(item) for item in value)
    if isinstance(value, dict):
        return {key: owned(item) for key, item in value.items()}
    return value
