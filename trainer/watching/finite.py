"""Stops all ranks at a loss or gradient that is NaN or infinite, and says where it came from.

Loss terms and the norm of the averaged gradient are global, so all ranks decide alike. On a GPU
nothing waits for the check: the numbers are copied while the work goes on, and checked before the
next update changes a parameter. An update with a non-finite gradient changes no parameter itself.
So when the check fails, the state is still the one that the numbers came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.methods import Domain, Losses, Method, Update
from trainer.synchronised import ReadBack, collectives
from trainer.watching.observer import Observer, Origin

_SHOWN = 8
_NORM = "gradient norm"
_REMEDY = "lower optimizer.learning_rate, set optimizer.clip_norm, or look at these samples"
Batch = dict[str, Domain]


class NonFiniteError(ValueError):
    """A loss term or the gradient is NaN or infinite; the message names it and the samples."""


@dataclass(frozen=True)
class _Scalar:
    """A number to check, and the batches that it came from.

    The gradient of accumulated batches came from several.
    """

    name: str
    value: Tensor
    origins: tuple[Origin, ...]


@dataclass(frozen=True)
class _Pending:
    """Scalars whose values are on their way to the host."""

    scalars: Sequence[_Scalar]
    values: ReadBack


class FiniteCheck(Observer):
    """Checks every update's loss terms and gradient norm; raises on all ranks together.

    Args:
        method: the bare method, not an engine's wrapper.
        learning: the engine's block in which only an update's parameters learn.
        whole_weights: the engine's block in which weights can be used.
        sharded: whether an engine spreads the weights over ranks. Gradients can then not be
            computed again without it, and the message names neither rank nor term of a gradient.
        delayed: whether numbers are checked one update later; for GPUs.
    """

    def __init__(
        self,
        method: Method,
        *,
        learning: Callable[[Update], AbstractContextManager[None]],
        whole_weights: Callable[[], AbstractContextManager[None]] = nullcontext,
        sharded: bool = False,
        delayed: bool = False,
    ) -> None:
        self._method, self._learning, self._whole_weights = method, learning, whole_weights
        self._sharded, self._delayed = sharded, delayed
        self._origins: list[Origin] = []  # since the last update
        self._terms: list[_Scalar] = []
        self._pending: _Pending | None = None

    def losses_known(self, terms: Mapping[str, Tensor], origin: Origin) -> None:
        """Check the loss terms, or send them to be checked with the update's gradient norm."""
        self._origins.append(origin)
        scalars = [_Scalar(name, value.detach(), (origin,)) for name, value in terms.items()]
        if self._delayed:
            self._terms += scalars
        else:
            self._check(_sent(scalars))

    def updated(self, norm: Tensor) -> None:
        """Check the gradient norm, or send it on its way to the next :meth:`settle`."""
        scalars = [*self._terms, _Scalar(_NORM, norm.detach(), tuple(self._origins))]
        self._origins, self._terms = [], []
        if self._delayed:
            assert self._pending is None, "settle() comes before every update"
            self._pending = _sent(scalars)
        else:
            self._check(_sent(scalars))

    def settle(self) -> None:
        """Check what has not been checked yet; before the state changes, is scored or saved.

        Raises:
            NonFiniteError: on every rank, the same text.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._check(pending)

    def saving(self, step: int, *, last: bool) -> None:
        self.settle()

    def steps_ended(self) -> None:
        self.settle()

    def _check(self, pending: _Pending) -> None:
        for scalar, value in zip(pending.scalars, pending.values.tolist(), strict=True):
            if not math.isfinite(value):
                raise NonFiniteError(self._message(scalar, value))

    def _message(self, scalar: _Scalar, value: float) -> str:
        """The same text on every rank; called by all of them."""
        traced = scalar.name == _NORM and not self._sharded
        step, cause, keys = scalar.origins[-1].now.step, "", []
        for origin in scalar.origins:
            batch = origin.batch()
            term = self._broken_term(batch, origin) if traced else None
            found = collectives.gather_objects((term, self._suspects(batch)))
            broken = {rank: term for rank, (term, _) in enumerate(found) if term is not None}
            if broken:
                step, cause = origin.now.step, f", from {_causes(broken)}"
                keys = [key for rank in broken for key in found[rank][1]]
                break
            keys += [key for _, part in found for key in part]
        if traced and not cause:
            cause = ", though each worker's own part of it is finite when computed again"
        samples = ", ".join(keys[:_SHOWN])
        more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
        return f"step {step}: {scalar.name} is {value}{cause}; samples: {samples}{more}; {_REMEDY}"

    def _broken_term(self, batch: Batch, origin: Origin) -> str | None:
        """The first loss term whose gradient on this rank is not finite, before any averaging.

        Called by all ranks: forward and backward pass of the losses hold collectives.
        """
        broken: str | None = None
        with self._learning(origin.update):
            losses: Losses = self._method(batch, origin.now, origin.update.name)
            learning = [p for p in self._method.parameters() if p.requires_grad]
            for name, term in losses.terms.items():
                # Not backward(): an engine's hooks would average, and .grad would be written to.
                parts = torch.autograd.grad(
                    term * losses.weights[name], learning, retain_graph=True, allow_unused=True
                )
                finite = [torch.isfinite(part).all() for part in parts if part is not None]
                if broken is None and finite and not bool(torch.stack(finite).all()):
                    broken = name
        return broken

    @torch.no_grad()
    def _suspects(self, batch: Batch) -> list[str]:
        """Keys of this rank's samples whose embedding is not finite, or all its keys where each
        embedding is finite."""
        suspects: list[str] = []
        with self._whole_weights():
            for domain in batch.values():
                shapes = domain.pixels.dim() == 5
                embed = self._method.embed_gallery if shapes else self._method.embed_queries
                finite = torch.isfinite(embed(domain.pixels)).all(1).tolist()
                suspects += [k for k, ok in zip(domain.keys, finite, strict=True) if not ok]
        return suspects or [k for domain in batch.values() for k in domain.keys]


def _sent(scalars: Sequence[_Scalar]) -> _Pending:
    return _Pending(scalars, ReadBack(torch.stack([scalar.value for scalar in scalars])))


def _causes(broken: Mapping[int, str]) -> str:
    """``{1: a, 2: a, 3: b}`` as "the gradient of a on ranks 1, 2 and of b on rank 3"."""
    ranks: dict[str, list[str]] = {}
    for rank, term in broken.items():
        ranks.setdefault(term, []).append(str(rank))
    parts = [
        f"of {term} on rank{'s' if len(found) > 1 else ''} {', '.join(found)}"
        for term, found in ranks.items()
    ]
    return f"the gradient {' and '.join(parts)}"
