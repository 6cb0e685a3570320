"""One interface for all that happens around the steps of a training: measuring, checking, logging,
scoring and saving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, Protocol

from torch import Tensor

from trainer.methods import Domain, Now, Update
from trainer.runs import Checkpoint


@dataclass(frozen=True)
class Origin:
    """What losses were computed from; ``batch`` makes this rank's part of it once more."""

    now: Now
    update: Update
    batch: Callable[[], dict[str, Domain]]


class ReadCounts(Protocol):
    """What :class:`dataio.loading.loader.Loader` says of its reading."""

    @property
    def read_bytes(self) -> int: ...

    @property
    def held_bytes(self) -> int: ...


class Observer:
    """Is told what the loop does, and does nothing about it unless a subclass overrides a method.

    All ranks tell their observers the same events in the same order. So an observer may call
    collectives, but not in :meth:`recorded`, which only rank 0 hears, and not in :meth:`close`.
    """

    def resumed(self, found: Checkpoint) -> None:
        """The state of the run was loaded from this checkpoint."""

    def started(self, step: int, loader: ReadCounts) -> None:
        """Training is about to begin; ``step`` steps were done before."""

    def step_begins(self) -> None:
        """The next batch has arrived."""

    def losses_known(self, terms: Mapping[str, Tensor], origin: Origin) -> None:
        """The forward pass of an update has ended, its backward pass comes next.

        ``terms`` are its global loss terms, scalars.
        """

    def settle(self) -> None:
        """The state is about to change, or values are about to be read: raise what is wrong."""

    def updated(self, norm: Tensor) -> None:
        """The optimiser has stepped; ``norm`` is that of the averaged gradient, a scalar."""

    def recorded(self, record: dict[str, Any]) -> None:
        """Rank 0 has the record of a logged step."""

    def saving(self, step: int, *, last: bool) -> None:
        """The state after ``step`` steps is to be kept; with ``last`` training ends with it."""

    def stepped(self, step: int, batch: Mapping[str, Any], *, logged: bool) -> None:
        """A step has ended with all that belongs to it.

        Args:
            step: steps that are done now.
            batch: what the step was given, by stream; ``count`` is of the global batch.
            logged: whether this step has a record.
        """

    def steps_ended(self) -> None:
        """There is no further step; a last fit and the last checkpoint come next."""

    def ended(self, step: int) -> None:
        """Training has ended after ``step`` steps, and its last checkpoint is written."""

    def close(self) -> None:
        """Training has ended or failed; give back what is held."""


Event = ParamSpec("Event")


class Observers:
    """Several observers, told one after the other in the order given."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def tell(
        self,
        event: Callable[Concatenate[Observer, Event], None],
        *args: Event.args,
        **options: Event.kwargs,
    ) -> None:
        """Tell every observer an event, such as ``Observer.stepped``, with its arguments."""
        for observer in self._observers:
            getattr(observer, event.__name__)(*args, **options)

    def close(self) -> None:
        """Close every observer, also where another one fails to close."""
        with ExitStack() as stack:
            for observer in reversed(self._observers):
                stack.callback(observer.close)
