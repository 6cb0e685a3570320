"""Base of the methods that adapt frozen embeddings: train source-only, then fit once.

The steps are those of source-only: with the same seed the network is the same bit for bit. After
the last step the embeddings of both streams are collected. A closed-form or alternating fit on
them gives one transform for queries of the source and one for gallery items of the target. These
fits need all embeddings at once, so every rank holds (n + m)·D numbers.

Axis letters: n source samples, m target samples, D embedding width, d retrieval width.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from dataio.records import DataError
from trainer.methods.base import MethodConfig, StreamNeed, Walk
from trainer.methods.source_only import SourceOnly
from trainer.networks import NetworkConfig
from trainer.shallow import Standardisation, StandardisationKind, unit_rows
from trainer.synchronised import collectives

log = logging.getLogger(__name__)
Side = Literal["source", "target"]


class ShallowConfig(MethodConfig):
    """What all shallow methods have in common."""

    standardise: StandardisationKind = Field(
        default="zscore",
        description="Standardisation of each domain before the fit: zero mean and unit variance "
        "per feature (the papers' protocol), zero mean, or none.",
    )
    unit_length: bool = Field(
        default=False,
        description="Scale every standardised embedding to length 1 before the fit.",
    )


class FittedState(nn.Module):
    """Tensors that a fit leaves behind, by name, saved with the run.

    Their sizes are known only after the fit: loading takes over whatever the saved state holds.
    ``fitted``, a bool scalar, says whether there are any.
    """

    fitted: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))

    def __bool__(self) -> bool:
        return bool(self.fitted)

    def __getitem__(self, name: str) -> Tensor:
        return self.get_buffer(name)

    def store(self, values: Mapping[str, Tensor]) -> None:
        """Replace everything by ``values``, whose dtypes are kept."""
        for name in [n for n in self._buffers if n != "fitted"]:
            del self._buffers[name]
        for name, value in values.items():
            self.register_buffer(name, value.detach().to(self.fitted.device, copy=True))
        self.fitted.fill_(bool(values))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        found = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
        self.store({k: v for k, v in found.items() if k != "fitted"})
        super()._load_from_state_dict(state_dict, prefix, *args)


class ShallowMethod(SourceOnly):
    """Source-only training, then :meth:`fit`; before it, embeddings are those of the network."""

    streams = {  # noqa: RUF012
        "source_images": StreamNeed("image", labelled=True),
        "target_shapes": StreamNeed("shape", labelled=False),
    }
    walked = frozenset({"target_shapes"})
    Config = ShallowConfig

    def __init__(self, config: Any, network: NetworkConfig, *, num_classes: int, seed: int) -> None:
        super().__init__(config, network, num_classes=num_classes, seed=seed)
        self.fit_result = FittedState()

    def fit(
        self, source: np.ndarray, labels: np.ndarray, target: np.ndarray
    ) -> dict[str, np.ndarray]:
        """What :meth:`transform` needs, from standardised ``source [n, D]``, ``labels [n]`` and
        standardised ``target [m, D]``, both in stream order; called on rank 0 only.

        The default :meth:`transform` needs ``source_map`` and ``target_map``, ``[D, d]`` each.
        """
        raise TypeError(f"{type(self).__name__} does not define fit()")

    def transform(self, x: Tensor, side: Side) -> Tensor:
        """Retrieval embedding ``[n, d]`` of standardised embeddings ``x [n, D]`` in float64."""
        return x @ self.fit_result[f"{side}_map"]

    @torch.no_grad()
    def finish(self, walk: Walk) -> None:
        """Collect the embeddings of both streams, fit on rank 0, store the result on all ranks.

        Raises:
            DataError: a stream has no sample.
        """
        source, labels = self._collect(walk, "source_images")
        target, _ = self._collect(walk, "target_shapes")
        result: dict[str, np.ndarray] = {}
        if collectives.rank() == 0:
            result = self._fit(*(x.cpu().numpy() for x in (source, labels, target)))
        self.fit_result.store(_from_rank_zero(result, source.device))

    def embed_queries(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, d]`` of query images ``[n, 3, H, W]``; ``[n, D]`` unfitted."""
        return self._transformed(super().embed_queries(pixels), "source")

    def embed_gallery(self, pixels: Tensor) -> Tensor:
        """Retrieval embedding ``[n, d]`` of gallery shapes ``[n, V, 3, H, W]``; ``[n, D]``
        unfitted."""
        return self._transformed(super().embed_gallery(pixels), "target")

    def _transformed(self, x: Tensor, side: Side) -> Tensor:
        if not self.fit_result:
            return x
        z = (x.double() - self.fit_result[f"{side}_mean"]) / self.fit_result[f"{side}_scale"]
        z = nn.functional.normalize(z, dim=1) if self.config.unit_length else z
        return self.transform(z, side).to(x.dtype)

    def _fit(
        self, source: np.ndarray, labels: np.ndarray, target: np.ndarray
    ) -> dict[str, np.ndarray]:
        """:meth:`fit` on standardised features, with the standardisation beside its result."""
        log.info("%s: fitting %d source and %d target samples", self.name, len(source), len(target))
        s = Standardisation.of(source, self.config.standardise)
        t = Standardisation.of(target, self.config.standardise)
        standard = [s.apply(source), t.apply(target)]
        if self.config.unit_length:
            standard = [unit_rows(x) for x in standard]
        return {
            "source_mean": s.mean,
            "source_scale": s.scale,
            "target_mean": t.mean,
            "target_scale": t.scale,
            **self.fit(standard[0], labels, standard[1]),
        }

    def _collect(self, walk: Walk, stream: str) -> tuple[Tensor, Tensor]:
        """Embeddings ``[N, D]`` in float64 and labels ``[N]`` of a whole stream, in its order.

        Rows are ordered by their place in the stream, which does not depend on the ranks.
        """
        embed = super().embed_queries if stream == "source_images" else super().embed_gallery
        weight = self.network.bottleneck.weight
        vectors = [weight.new_zeros(0, weight.shape[0], dtype=torch.float64)]
        places = [torch.zeros(0, 2, dtype=torch.int64, device=weight.device)]
        for part in walk(stream):
            assert part.samples is not None, "a walk numbers its samples"
            vectors.append(embed(part.pixels).double())
            places.append(torch.stack([part.samples, part.labels], 1).to(weight.device))
        features = collectives.all_gather_rows(torch.cat(vectors))
        place = collectives.all_gather_rows(torch.cat(places))
        if len(features) == 0:
            raise DataError(
                f"data.{stream}: no sample to fit {self.name} on; choose a split that has some"
            )
        order = place[:, 0].argsort()
        return features[order], place[order, 1]


def _from_rank_zero(values: dict[str, np.ndarray], device: torch.device) -> dict[str, Tensor]:
    """Rank 0's arrays as float64 tensors on every rank; the other ranks' ``values`` are ignored."""
    shapes = collectives.broadcast_object({name: np.shape(v) for name, v in values.items()})
    leader = collectives.rank() == 0
    # The sum of rank 0's values and the zeros of the others is an exact broadcast.
    return {
        name: collectives.all_reduce_sum(
            torch.as_tensor(values[name] if leader else np.zeros(shape), dtype=torch.float64).to(
                device
            )
        )
        for name, shape in shapes.items()
    }
