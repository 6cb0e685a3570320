"""A sharded gallery on Ray: one actor per shard behind the evaluator's transport protocol.

An actor that dies, alone or with its node, is started again (actor_restarts.py), builds its shard
from the source again and answers the repeated question. An answer depends on the question alone. So
an evaluation with restarts has the same bits as one without.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.evaluation.actor_restarts import ActorRestarts
from cluster.evaluation.shard_actor import ShardActor, ShardSource, owned
from evalsuite.scoring import InProcess, Transport, partition, split_gallery
from evalsuite.vectors import Embeddings, EvaluationError, read_embeddings

if TYPE_CHECKING:
    from cluster.evaluation.shard_places import Claim

MAX_RESTARTS = 3  # of one shard; a shard that is lost more often would be lost again
PATIENCE_SECONDS = 120.0  # how long a shard may be without a place
MAX_TRIES = 5  # of a question at least: Ray notices the loss of a node late
LOOK_SECONDS = 1.0  # between two looks at actors that do not answer
CLOSE_SECONDS = 10.0
STORE_BYTES = 256 << 20  # the object store of a local cluster, beside the gallery


class GalleryActors:
    """Gallery shards in Ray actors; every call is answered in shard order, from any thread.

    Args:
        claim: what each actor reserves.
        options: those of ``GalleryShard``.
        max_restarts: of one shard.
        patience_seconds: how long an actor may wait for a place, at first and after a loss.
    """

    in_flight = 2
    """Blocks of queries that are asked at a time: one is computed while the other travels. The
    object store holds at most the questions and answers of that many blocks."""

    def __init__(
        self,
        sources: Iterable[ShardSource],
        *,
        claim: Claim,
        options: Mapping[str, Any],
        max_restarts: int = MAX_RESTARTS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        import ray

        actor: Any = ray.remote(
            num_cpus=claim.cpus,
            memory=claim.memory_bytes,
            scheduling_strategy="SPREAD",
            max_restarts=max_restarts,
            max_task_retries=0,  # repeated below, because Ray would print every attempt
        )(ShardActor)
        self._patience_seconds = patience_seconds
        # Kept here, since a restarted actor needs its source again. ``sources`` may be an iterator:
        # one source at a time is in memory.
        self._sources = [ray.put(source) for source in sources]
        self._actors: list[Any] = [
            actor.remote(dict(options), claim.threads) for _ in self._sources
        ]
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._asking, self._closed = 0, False
        self._restarts = ActorRestarts(
            self._actors,
            claim=claim,
            max_restarts=max_restarts,
            patience_seconds=patience_seconds,
        )

    @property
    def restarts(self) -> list[int]:
        """How often each shard was started again so far."""
        return list(self._restarts.counts)

    def broadcast(self, method: str, *args: Any) -> list[Any]:
        """Call ``method`` on every shard with ``args``; the answers in shard order.

        Raises ``EvaluationError`` if a shard is lost for good, or finds no place; else what the
        shard itself raises.
        """
        with self._lock:
            self._require_open()
            self._asking += 1
        try:
            return self._broadcast(method, *args)
        finally:
            with self._lock:
                self._asking -= 1
                self._idle.notify_all()

    def _broadcast(self, method: str, *args: Any) -> list[Any]:
        import ray
        from ray.exceptions import RayError, RayTaskError

        shared = [ray.put(arg) for arg in args]  # one copy per node, not one per shard

        def ask(position: int) -> Any:
            source = self._sources[position]
            return self._actors[position].call.remote([source], method, *shared)

        asked = {ask(position): position for position in range(len(self._actors))}
        answers: list[Any] = [None] * len(self._actors)
        tries = [0] * len(self._actors)
        start_seconds = time.monotonic()
        while asked:
            self._require_open()
            ready, _ = ray.wait(list(asked), timeout=LOOK_SECONDS)
            if not ready:
                self._restarts.check()
                continue
            position = asked.pop(ready[0])
            try:
                birth, answer = ray.get(ready[0])
            except RayTaskError as err:
                raise _own_error(err) from None  # its own message would be the actor's traceback
            except RayError as err:
                self._require_open()
                tries[position] += 1
                late = time.monotonic() - start_seconds > self._patience_seconds
                self._restarts.await_restart(
                    position,
                    err,
                    hopeless=late and tries[position] > MAX_TRIES,
                    require_open=self._require_open,
                )
                asked[ask(position)] = position
            else:
                answers[position] = owned(answer)
                del answer
                self._restarts.note_answer(position, birth)
        return answers

    def where(self) -> list[tuple[str, int]]:
        """The node's id and the process id of each shard."""
        found = [self._restarts.state(position) for position in range(len(self._actors))]
        return [(state["Address"]["NodeID"], state["Pid"]) for state in found]

    def close(self) -> None:
        """End all actors, also those that are computing, and the calls that wait for them."""
        import ray

        with self._lock:
            self._closed = True
        for actor in self._actors:
            ray.kill(actor, no_restart=True)
        with self._lock:  # a call that went on after Ray's end would start a new Ray
            self._idle.wait_for(lambda: not self._asking, timeout=CLOSE_SECONDS)

    def _require_open(self) -> None:
        if self._closed:
            raise RuntimeError("the gallery's actors were ended")


def _own_error(err: Any) -> Exception:
    """The error that a shard raised, without Ray's wrapping."""
    if isinstance(err.cause, MemoryError):
        return EvaluationError(
            "a gallery shard found too little memory; use smaller shards (more --shards) or nodes "
            "with more memory"
        )
    return err.cause


@contextmanager
def gallery_transport(
    gallery: Embeddings | Path,
    shards: int,
    *,
    actors: bool,
    shard_cpus: float | None = None,
    device: str = "cpu",
    instances: bool = False,
    **options: Any,
) -> Iterator[Transport]:
    """The gallery in ``shards`` parts, in this process or in Ray actors.

    Args:
        gallery: embeddings in memory, or a folder of their Parquet parts, of which each actor reads
            its own rows, so that every node must see the folder.
        shard_cpus: CPUs that an actor reserves; None shares what the cluster has free.
        device: torch device of shards in this process; actors work on CPUs.
        instances: actors are told the instances of their items, too.
        options: those of ``GalleryShard``: ``features``, ``metric``, ``arithmetic``.

    Raises:
        EvaluationError: the cluster cannot hold the shards; a folder that cannot be read.
    """
    if shard_cpus is not None and not shard_cpus > 0:
        raise EvaluationError(
            f"--shard-cpus {shard_cpus:g}: give more than 0, a fraction if need be"
        )
    if not actors:
        here = gallery if isinstance(gallery, Embeddings) else read_embeddings(gallery)
        yield InProcess(split_gallery(here, shards, device=device, **options))
        return
    # Imported here, so that a command without Ray does not load it.
    from cluster.evaluation.shard_places import await_room, memory_of
    from cluster.terminal import sigterm_interrupts
    from cluster.training import nodes, ray_session

    labels, names, width = _names_and_width(gallery)
    parts = partition(labels, shards)
    stored_bytes = 4 * width * len(labels) if isinstance(gallery, Embeddings) else 0
    # The handler comes after the session's, because Ray's own handler aborts.
    with ray_session(object_store_bytes=_store_bytes(stored_bytes)), sigterm_interrupts():
        claim = await_room(
            nodes,
            shards,
            memory_of(max(map(len, parts)), width),
            cpus=shard_cpus,
            patience_seconds=PATIENCE_SECONDS,
        )
        transport = GalleryActors(
            (_source(gallery, rows, labels, names if instances else ()) for rows in parts),
            claim=claim,
            options=options,
        )
        try:
            yield transport
        finally:
            transport.close()


def _names_and_width(gallery: Embeddings | Path) -> tuple[Sequence[str], Sequence[str], int]:
    """Class names, instances and the number of components."""
    if isinstance(gallery, Embeddings):
        return gallery.labels, gallery.instances, gallery.width
    from evalsuite.vectors import open_parts

    parts = open_parts(gallery)
    return parts.labels, parts.instances, parts.width


def _source(
    gallery: Embeddings | Path, rows: Any, labels: Sequence[str], instances: Sequence[str]
) -> ShardSource:
    own = [str(labels[row]) for row in rows]
    shown = [str(instances[row]) for row in rows] if instances else []
    if not isinstance(gallery, Embeddings):
        return ShardSource(rows, own, parts=str(gallery.absolute()), instances=shown)
    return ShardSource(rows, own, vectors=gallery.vectors[rows], instances=shown)


def _store_bytes(gallery_bytes: int) -> int:
    """Size of a local cluster's object store. What does not fit goes to disk, which is slow."""
    wanted = STORE_BYTES + int(1.2 * gallery_bytes)
    memory = Path("/dev/shm")
    free = shutil.disk_usage(memory).free if memory.is_dir() else 0
    return max(STORE_BYTES, min(wanted, free // 2))
