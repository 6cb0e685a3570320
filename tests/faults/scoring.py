"""Scores on a Ray cluster that a test disturbs in the middle of a block of queries.

``python -m tests.faults.scoring QUERIES GALLERY SHARDS`` prints where the shards are before the
first count, waits for a line, and prints the result, the restarts and where the shards are then.
GALLERY is a Parquet file or a folder of parts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cluster.evaluation.gallery_actors import GalleryActors, gallery_transport
from evalsuite.scoring.evaluation import evaluate
from evalsuite.vectors.reading import read_embeddings


class Paused:
    """Waits for a line on stdin before the first ``count``."""

    def __init__(self, transport: GalleryActors) -> None:
        self.in_flight = 1
        self._transport, self._paused = transport, False

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        if method == "count" and not self._paused:
            self._paused = True
            tell({"where": self._transport.where()})
            sys.stdin.readline()
        return self._transport.broadcast(method, *args)


def tell(what: dict[str, Any]) -> None:
    """One line for the test; Ray prints others."""
    print(f"> {json.dumps(what)}", flush=True)


def main() -> None:
    """Score, and say how it went."""
    queries, gallery, shards = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    held = gallery if gallery.is_dir() else read_embeddings(gallery)
    with gallery_transport(
        held, shards, actors=True, features="raw", metric="euclidean", arithmetic="exact"
    ) as transport:
        assert isinstance(transport, GalleryActors)
        result = evaluate(
            read_embeddings(queries), None, transport=Paused(transport), query_block=16
        )
        end = {"restarts": transport.restarts, "where": transport.where()}
    rows = [repr(row) for row in result.per_query.to_pylist()]
    tell({**end, "result": result.to_json(), "per_query": rows})


if __name__ == "__main__":
    main()
