"""The base of all trunks: from images to one flat feature vector, with named stages.

A trunk is a list of named layers: ``plan`` says which layers make up each stage, ``tail`` which
ones turn the last stage's map into features. Layer names are those of the public state dicts of
the same network (torchvision, Caffe), so these load without translation.

Axis letters: n images, C channels, H×W positions, F trunk features.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.networks.compiled import compiled
from trainer.networks.micro_batches import in_micro_batches


class Backbone(nn.Module):
    """Base of all trunks.

    Attributes:
        plan: names of the layers of each stage, stages in order.
        tail: names of the layers after the last stage.
        width: number F of output features.
        memory_format: layout that images are brought into; by default they keep theirs.
        heads: prefixes of foreign state dicts' entries that have no place in a trunk.
        micro_batch: most images passed at once, see :mod:`trainer.networks.micro_batches`; None:
            all of them.
        compiled: whether passes run compiled, see :mod:`trainer.networks.compiled`.
    """

    plan: dict[str, tuple[str, ...]]
    tail: tuple[str, ...]
    width: int
    heads: ClassVar[tuple[str, ...]] = ()
    memory_format: torch.memory_format = torch.preserve_format
    micro_batch: int | None = None
    compiled: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages in order."""
        return tuple(self.plan)

    def features(
        self,
        x: Tensor,
        gates: Callable[[Tensor, str], Tensor] | None = None,
        *,
        keep: Collection[str] = (),
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Features of images ``x [n, 3, H, W]``; n may be 0.

        Args:
            gates: called with every stage's output and name; returns the input of the next stage.
            keep: stages whose output is returned.

        Returns:
            Features ``[n, F]``, and the (gated) outputs ``[n, C, H', W']`` of the kept stages.
        """
        run = partial(compiled(Backbone._pass) if self.compiled else Backbone._pass, self)
        run = partial(run, gates=gates, keep=tuple(keep))
        return run(x) if self.micro_batch is None else in_micro_batches(run, x, self.micro_batch)

    def _pass(
        self, x: Tensor, *, gates: Callable[[Tensor, str], Tensor] | None, keep: tuple[str, ...]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`features` of all of ``x`` at once."""
        maps: dict[str, Tensor] = {}
        x = x.to(memory_format=self.memory_format)
        for stage, layers in self.plan.items():
            for layer in layers:
                x = self.get_submodule(layer)(x)
            if gates is not None:
                x = gates(x, stage)
            if stage in keep:
                maps[stage] = x
        for layer in self.tail:
            x = self.get_submodule(layer)(x)
        return x, maps

    def forward(self, x: Tensor) -> Tensor:
        """Features ``[n, F]`` of images ``x [n, 3, H, W]``."""
        return self.features(x)[0]

    def rename(self, name: str) -> str:
        """This trunk's name for an entry of a public state dict of the same network."""
        return name
