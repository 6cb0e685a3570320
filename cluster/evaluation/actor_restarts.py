"""Restarts of dead gallery actors: what is said about them, how long one is awaited, when to end.

Ray starts an actor that died again, alone or with its node, where there is room. The caller then
repeats the question. This file looks at the actors' states in the meantime. Actors that extract
embeddings are restarted by Ray alone (:mod:`cluster.evaluation.extraction_actors`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cluster.terminal import say
from cluster.training import actor_state
from evalsuite.vectors import EvaluationError

if TYPE_CHECKING:
    from cluster.evaluation.shard_places import Claim

NOTICE_SECONDS = 0.2  # between two looks at an actor that is being restarted


class ActorRestarts:
    """The restarts of ``actors``, each of which reserved ``claim``.

    ``max_restarts`` is of one actor, ``patience_seconds`` how long one may wait for a place.
    """

    def __init__(
        self, actors: Sequence[Any], *, claim: Claim, max_restarts: int, patience_seconds: float
    ) -> None:
        self.counts = [0] * len(actors)
        self._actors, self._claim = actors, claim
        self._max_restarts, self._patience_seconds = max_restarts, patience_seconds
        self._lock = threading.Lock()
        self._births: dict[int, str] = {}
        self._waiting_since_seconds: dict[int, float] = {}

    def state(self, position: int) -> dict[str, Any]:
        """What Ray knows of an actor."""
        return actor_state(self._actors[position])

    def note_answer(self, position: int, birth: str) -> None:
        """An actor has answered; ``birth`` differs from one start of an actor to the next."""
        with self._lock:
            if self._births.get(position) != birth:
                state = self.state(position)
                first = position not in self._births and not state["NumRestarts"]
                self._births[position] = birth
                if not first:
                    self._say_restarts(position, state)

    def check(self) -> None:
        """Say what was restarted; refuse to wait longer for an actor that finds no place."""
        with self._lock:
            for position in range(len(self._actors)):
                state = self.state(position)
                self._say_restarts(position, state)
                if state["State"] in ("ALIVE", "DEAD"):  # the question to a dead one fails
                    self._waiting_since_seconds.pop(position, None)
                    continue
                since = self._waiting_since_seconds.setdefault(position, time.monotonic())
                if time.monotonic() - since > self._patience_seconds:
                    raise EvaluationError(self._without_place(position))

    def await_restart(
        self, position: int, err: Exception, *, hopeless: bool, require_open: Callable[[], None]
    ) -> None:
        """Return as soon as the actor may be asked again after ``err``.

        Raises ``EvaluationError`` if it is dead for good, or if it is ``hopeless`` to ask again.
        """
        time.sleep(NOTICE_SECONDS)
        while (state := self.state(position))["State"] not in ("ALIVE", "DEAD"):
            require_open()
            self.check()
            time.sleep(NOTICE_SECONDS)
        if state["State"] == "ALIVE" and not hopeless:
            return
        if "creation task" in str(err):
            reason = str(err).strip().splitlines()[-1].strip()
            raise EvaluationError(
                f"{self._name(position)} cannot start: {reason}; install the same img2shape on "
                "every node"
            ) from None
        short = "low on memory" in str(err) or "OutOfMemory" in type(err).__name__
        raise EvaluationError(
            f"{self._name(position)} was lost again after {state['NumRestarts']} restarts"
            f"{' for want of memory' if short else ''}; mostly the memory is too small: use "
            "smaller shards (more --shards) or larger nodes "
            f"(the shard had reserved {self._claim})"
        ) from None

    def _say_restarts(self, position: int, state: Mapping[str, Any]) -> None:
        count = int(state["NumRestarts"])
        if count > self.counts[position]:
            self.counts[position] = count
            say(
                f"{self._name(position)} was lost and restarted ({count} of {self._max_restarts}); "
                "its question is asked again"
            )

    def _without_place(self, position: int) -> str:
        from cluster.evaluation.shard_places import room
        from cluster.training import nodes

        return (
            f"{self._name(position)} has found no place for {self._patience_seconds:g} s: it "
            f"needs {self._claim}, free are {room(nodes()) or 'no nodes'}; add a node, use smaller "
            "shards (more --shards), or take fewer --shard-cpus"
        )

    def _name(self, position: int) -> str:
        return f"gallery shard {position + 1} of {len(self._actors)}"
