"""A sharded gallery on Ray: one actor per shard behind the evaluator's transport protocol."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from evalsuite.embeddings import Embeddings
from evalsuite.gallery import GalleryShard, InProcess, Transport, split_gallery

__all__ = ["RayTransport", "gallery_transport"]


class RayTransport:
    """Gallery shards in Ray actors; every call is answered in shard order."""

    def __init__(self, shards: Sequence[GalleryShard]) -> None:
        import ray

        actor = ray.remote(num_cpus=0)(_ShardActor)
        self._actors = [actor.remote(shard) for shard in shards]

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        import ray
        from ray.exceptions import RayTaskError

        shared = [ray.put(a) for a in args]  # one copy per node, not one per shard
        try:
            return ray.get([a.call.remote(method, *shared) for a in self._actors])
        except RayTaskError as err:
            raise err.cause from None  # its own message would be the actor's traceback


class _ShardActor:
    def __init__(self, shard: GalleryShard) -> None:
        self._shard = shard

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._shard, method)(*args)


@contextmanager
def gallery_transport(
    gallery: Embeddings, shards: int, *, actors: bool, features: str, metric: str
) -> Iterator[Transport]:
    """The gallery in ``shards`` parts, in this process or in Ray actors."""
    parts = split_gallery(gallery, shards, features=features, metric=metric)
    if not actors:
        yield InProcess(parts)
        return
    # Here, so that the actors, which import this file, need not load the trainer and torch.
    from cluster.launch import ray_session

    with ray_session():
        yield RayTransport(parts)
