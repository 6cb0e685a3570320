"""Extraction by Ray actors: each holds the network and makes one part at a time."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from cluster.errors import USER_ERRORS
from cluster.evaluation.extractor import Crew, EmbeddingStream, Extractor
from cluster.terminal import say, stop_on_signal
from cluster.training import ray_session
from evalsuite.vectors import EvaluationError, Part, PartsWriter
from trainer.extraction import load_run

RESTARTS = 3  # of one actor, and attempts at one part beyond the first
PATIENCE_SECONDS = 20.0  # until the user is told what is waited for


@contextmanager
def extraction_actors(checkpoint: Path, workers: int) -> Iterator[Crew]:
    """``workers`` actors of one CPU, or one GPU where the cluster has any, for the block's time.

    The cluster is that of RAY_ADDRESS, else a local one. An actor that dies is started again, on
    another node if need be, and makes its part again; finished parts stay. Actors without room are
    not awaited as long as one actor has a place.

    Raises ``KeyboardInterrupt`` in the crew's loop for Ctrl-C and SIGTERM alike, within a second.
    """
    import ray

    with (
        ray_session(),
        stop_on_signal() as stopped,
    ):
        gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        remote = ray.remote(
            num_cpus=1, num_gpus=gpus, max_restarts=RESTARTS, max_task_retries=RESTARTS
        )(_ExtractionActor)
        actors: list[Any] = [
            remote.remote(str(checkpoint), str(Path.cwd())) for _ in range(workers)
        ]
        try:
            yield _Actors(actors, stopped, what="a GPU" if gpus else "a CPU")
        finally:
            for actor in actors:
                ray.kill(actor)


class _ExtractionActor:
    """Loads the checkpoint with its first part, so that an error in it is an answer."""

    def __init__(self, checkpoint: str, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)  # relative paths mean what they mean to the user
        self._checkpoint = Path(checkpoint)
        self._extractor: Extractor | None = None

    def ready(self) -> None:
        """Answers as soon as the actor has a place."""

    def make(self, stream: EmbeddingStream, writer: PartsWriter, number: int) -> Part | Exception:
        """The part, or the user's error as a value, because Ray wraps exceptions."""
        try:
            done = writer.whole(number)  # by an actor that died before it could answer
            if done is not None:
                return done
            if self._extractor is None:
                self._extractor = Extractor(load_run(self._checkpoint))
            return self._extractor.make(stream, writer, number)
        except (*USER_ERRORS, OSError) as error:
            return error


class _Actors:
    """Gives each actor that has a place a part, and the next one when that is done."""

    def __init__(self, actors: Sequence[Any], stopped: Event, *, what: str) -> None:
        self._stopped = stopped
        self._arriving = {actor.ready.remote(): actor for actor in actors}
        self._free: list[Any] = []
        self._count, self._what = len(actors), what
        self._since_seconds: float | None = time.monotonic()

    def __call__(
        self,
        stream: EmbeddingStream,
        writer: PartsWriter,
        numbers: Sequence[int],
        on_items: Callable[[int], None],
        /,
    ) -> Iterator[tuple[int, Part]]:
        import ray

        waiting, busy = deque(numbers), {}
        while waiting or busy:
            while waiting and self._free:
                actor, number = self._free.pop(), waiting.popleft()
                busy[actor.make.remote(stream, writer, number)] = actor, number
            done, _ = ray.wait([*busy, *self._arriving], num_returns=1, timeout=1.0)
            if self._stopped.is_set():
                raise KeyboardInterrupt
            if not done:
                self._say_what_is_awaited(idle=not busy)
            for answer in done:
                result = _answer(answer)
                if answer in self._arriving:
                    self._free.append(self._arriving.pop(answer))
                    continue
                actor, number = busy.pop(answer)
                if isinstance(result, Exception):
                    raise result
                self._free.append(actor)
                on_items(result.rows)
                yield number, result

    def _say_what_is_awaited(self, *, idle: bool) -> None:
        """Tell the user, once, that there has been no room for any actor for a while."""
        if not idle or self._since_seconds is None:
            return
        if time.monotonic() - self._since_seconds >= PATIENCE_SECONDS:
            self._since_seconds = None
            say(
                f"waiting for room for a worker ({self._what} each, --workers {self._count}); "
                "Ctrl-C ends the wait"
            )


def _answer(answer: Any) -> Any:
    import ray
    from ray.exceptions import RayActorError

    try:
        return ray.get(answer)
    except RayActorError as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(
            f"a worker of the extraction died {RESTARTS + 1} times ({reason}); out of memory? call "
            "again with fewer --workers or a smaller evaluation.batch, finished parts are kept"
        ) from None
