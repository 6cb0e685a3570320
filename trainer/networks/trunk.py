"""The base of all trunks: from images to one flat feature vector, with named stages.

A trunk is a list of named layers: ``plan`` says which layers make up each stage, ``tail`` which
ones turn the last stage's map into features. Layer names are those of the public state dicts of
the same network (torchvision, Caffe), so these load without translation.

The first stages can be frozen (:mod:`trainer.networks.freezing`). What they give depends on nothing
but the picture, so it can be computed once and kept: :meth:`Backbone.front` computes it, and
:meth:`Backbone.features` goes on from there.

Axis letters: n images, C channels, H×W positions, T tokens, F trunk features.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.networks.compiled import compiled
from trainer.networks.gates import AdaptiveGates, BranchGate, Place, in_shape_of
from trainer.networks.micro_batches import in_micro_batches

FEATURES = "features"
"""The only stage of a trunk that is frozen as a whole: its features, as a map of one position."""

_COLOURS = 3  # no stage has so few channels, tokens or features


class NetworkError(ValueError):
    """A network that cannot be built as asked; the message names the option and the remedy."""


class Backbone(nn.Module):
    """Base of all trunks.

    Attributes:
        plan: names of the layers of each stage, stages in order; one with a leading underscore is
            a method's.
        tail: names of the layers after the last stage.
        tail_parts: prefixes of the tail's parameters, besides those that ``tail`` names.
        width: number F of output features.
        memory_format: layout that images are brought into; by default they keep theirs.
        heads: prefixes of foreign state dicts' entries that have no place in a trunk.
        frozen: how many stages, from the first on, are frozen; the tail counts as one more.
        micro_batch: most images passed at once, see :mod:`trainer.networks.micro_batches`; None:
            all of them.
        compiled: whether passes run compiled, see :mod:`trainer.networks.compiled`.
    """

    plan: dict[str, tuple[str, ...]]
    tail: tuple[str, ...]
    tail_parts: tuple[str, ...] = ()
    width: int
    heads: ClassVar[tuple[str, ...]] = ()
    memory_format: torch.memory_format = torch.preserve_format
    frozen: int = 0
    micro_batch: int | None = None
    compiled: bool = False
    _gates: tuple[AdaptiveGates, ...] = ()  # in a tuple, and so no part of the trunk
    _places: Mapping[str, Place] = MappingProxyType({})  # of the gates, by stage

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that can be gated or kept, in order: those that are not frozen, or
        ``("features",)`` where all are."""
        return tuple(self.plan)[self.frozen :] or (FEATURES,)

    @property
    def all_frozen(self) -> bool:
        """Whether stages and tail are frozen."""
        return self.frozen > len(self.plan)

    def features(
        self,
        x: Tensor,
        *,
        keep: Collection[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features of images ``x [n, 3, H, W]``; n may be 0.

        Args:
            x: images, or what :meth:`front` has made of them.
            keep: stages whose output is returned.

        Returns:
            Features ``[n, F]``, and the (gated) outputs ``[n, C, H', W']`` of the kept stages.
        """
        run = partial(compiled(Backbone._pass) if self.compiled else Backbone._pass, self)
        run = partial(run, keep=tuple(keep))
        return run(x) if self.micro_batch is None else in_micro_batches(run, x, self.micro_batch)

    def gate(self, gates: AdaptiveGates) -> None:
        """Let ``gates`` act in every pass from now on, which is done once; see
        :mod:`trainer.networks.gates`. Their parameters belong to the caller."""
        assert not self._gates, "this trunk has gates"
        self._gates = (gates,)
        self._places = {stage: self.gate_place(stage) for stage in gates.h}
        for stage in self._places:
            for layer in self.branch_ends(stage) if self._places[stage] == "branches" else ():
                layer.register_forward_hook(BranchGate(gates, stage))

    def gate_place(self, stage: str) -> Place:
        """Where a gate of one of :attr:`stages` sits."""
        if stage == FEATURES:
            return "features"
        return "branches" if self.branch_ends(stage) else self.place_without_skip(stage)

    def branch_ends(self, stage: str) -> list[nn.Module]:
        """The layers of ``stage`` whose outputs are added to skips; each is used nowhere else."""
        return []

    def place_without_skip(self, stage: str) -> Place:
        """Where the gate of a stage without skips sits."""
        return "output"

    @torch.no_grad()
    def front(self, x: Tensor) -> Tensor:
        """What the frozen stages give for images ``x [n, 3, H, W]``, with four axes.

        Maps ``[n, C, H', W']``, tokens ``[n, T, C, 1]``, or features ``[n, F, 1, 1]``.
        """
        assert self.frozen, "nothing of this trunk is frozen"
        for part in (*self.plan, "tail")[: self.frozen]:
            x = self._run(x, part)
        return x.reshape(*x.shape, *[1] * (4 - x.dim()))

    def _pass(self, x: Tensor, *, keep: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`features` of all of ``x`` at once."""
        maps: dict[str, Tensor] = {}
        if x.shape[1] == _COLOURS:
            parts = (*self.plan, "tail")
        else:
            x, parts = self._resumed(x), (*self.plan, "tail")[self.frozen :]
        for part in parts:
            before, x = x, self._run(x, part)
            if part == "tail" or part not in self.stages:
                continue
            x = self._gated(x, part, ("output", "blend"), before)
            if part in keep:
                maps[part] = self.as_map(x)
        x = self._gated(x, self.stages[-1], ("features",), x)
        if self.stages == (FEATURES,):
            maps |= {FEATURES: x[:, :, None, None]} if FEATURES in keep else {}
        return x, maps

    def _gated(self, x: Tensor, stage: str, places: tuple[Place, ...], before: Tensor) -> Tensor:
        """``x`` through the gate of ``stage``, if it has one and that sits in one of ``places``.

        Also asked of stages whose branches have hooks. A compiler does not look for other hooks
        again; it compiles again where the answers here are others.
        """
        place = self._places.get(stage)
        if place not in places:
            return x
        return self._gates[0](x, stage, in_shape_of(before, x) if place == "blend" else None)

    def _run(self, x: Tensor, part: str) -> Tensor:
        """The layers of one stage, or of the tail."""
        if part == next(iter(self.plan)):
            x = x.to(memory_format=self.memory_format)
        for layer in self.tail if part == "tail" else self.plan[part]:
            run = getattr(self, layer) if layer.startswith("_") else self.get_submodule(layer)
            x = run(x)
        return x

    def _resumed(self, x: Tensor) -> Tensor:
        """What :meth:`front` has given, in the shape that the next stage takes."""
        return x.flatten(1) if self.all_frozen else x

    def as_map(self, x: Tensor) -> Tensor:
        """A stage's output as a map ``[n, C, H', W']``."""
        return x

    def part_of(self, name: str) -> str:
        """The stage that parameter or buffer ``name`` belongs to, or ``tail``.

        What no later stage holds belongs to the first: class token and position embedding too.
        """
        first, *later = self.plan
        named = {stage: self.plan[stage] for stage in later}
        for part, layers in (("tail", (*self.tail, *self.tail_parts)), *named.items()):
            if any(name == layer or name.startswith(f"{layer}.") for layer in layers):
                return part
        return first

    def train(self, mode: bool = True) -> Backbone:
        """As of every module; frozen parts stay in evaluation mode."""
        super().train(mode)
        for name, module in self.named_modules() if self.frozen and mode else ():
            if name and self.is_frozen(name):
                module.training = False
        return self

    def is_frozen(self, name: str) -> bool:
        """Whether parameter, buffer or layer ``name`` belongs to a frozen part."""
        return (*self.plan, "tail").index(self.part_of(name)) < self.frozen

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[n, F]`` of images ``x [n, 3, H, W]``."""
        return self.features(x)[0]

    def adapted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The entries of a public state dict of the same network, without its classifier, under
        this trunk's names."""
        return {self.rename(k): v for k, v in state.items() if not k.startswith(self.heads)}

    def rename(self, name: str) -> str:
        """This trunk's name for an entry of a public state dict of the same network."""
        return name
