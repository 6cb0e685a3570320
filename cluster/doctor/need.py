"""How much memory and disk a run takes, estimated from its description and its network.

Each worker needs, in bytes:

- state: weights, gradients, the engine's buffer for averaging gradients, and one (SGD) or two
  (Adam) values of the optimiser per parameter. ZeRO shards some of it, which is not counted, so
  this is an upper bound.
- activations: autograd keeps about the output of every layer, once for each picture of a step.
  Their gradients and the workspace add half as much. With ``strategy.micro_batch`` only that many
  pictures are held at once.
- loader: decoded pictures of the batches prepared ahead, one byte per channel.
- process: Python, torch and Ray's client before the first tensor.
- cache: all samples decoded, up to ``training.cache_bytes``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from trainer.config import RunConfig
from trainer.methods import METHODS

_PROCESS_BYTES = 700 << 20
_AHEAD = 4  # batches in the loader's threads and in pinned copies
_AHEAD_OF_PROCESS = 2  # batches of each loader process in shared memory
_WORKSPACE = 1.5
_OPTIMISER_VALUES = {"sgd": 1, "adam": 2}


@dataclass(frozen=True)
class Need:
    """Bytes of one worker; ``shared`` lie in /dev/shm, ``checkpoint`` is one on disk."""

    state: int
    activations: int
    loader: int
    shared: int
    cache: int
    process: int
    checkpoint: int

    def host(self, workers: int, *, gpus: bool = False) -> int:
        """Memory of the machine for ``workers``; ``gpus`` hold state and activations."""
        own = self.process + self.loader + self.shared
        return workers * (own + self.cache + (0 if gpus else self.state + self.activations))

    def gpu(self, *, cache: str) -> int:
        """Memory of each GPU."""
        return self.state + self.activations + (self.cache if cache == "device" else 0)


def estimate(
    config: RunConfig,
    model: Mapping[str, Any],
    explained: Mapping[str, Any],
    *,
    views: Mapping[str, int],
    workers: int,
) -> Need:
    """Bytes of each of ``workers`` workers.

    Args:
        model: of :func:`cluster.complexity.model_complexity`.
        explained: of :func:`trainer.explain.explain_run`.
        views: pictures of one sample, by stream.
    """
    training, wide = config.training, config.training.precision == "float64"
    parameter_bytes = (8 if wide else 4) * model["parameters"]
    optimiser = _OPTIMISER_VALUES[config.optimizer.kind]
    drawn = {name: s for name, s in explained["streams"].items() if s["drawn"]}
    of_stream = {name: ceil(s["batch"] / workers) * views[name] for name, s in drawn.items()}
    pictures = sum(of_stream.values())
    held = min(pictures, config.strategy.micro_batch or pictures)
    outputs = sum(prod(layer["output_shape"]) for layer in model["layers"])
    value_bytes = 8 if wide else 2 if training.precision == "bf16" else 4
    needs = METHODS[config.method_name].streams
    sides = {name: config.network.of(needs[name].modality).input_size for name in drawn}
    batch_bytes = sum(count * 3 * sides[name] ** 2 for name, count in of_stream.items())
    cached = min(training.cache_bytes, explained["cache_bytes"])
    return Need(
        state=(3 + optimiser) * parameter_bytes,
        activations=ceil(_WORKSPACE * held * outputs * value_bytes),
        loader=_AHEAD * batch_bytes,
        shared=_AHEAD_OF_PROCESS * training.loader_workers * batch_bytes,
        cache=0 if training.cache == "none" else cached,
        process=_PROCESS_BYTES * (1 + training.loader_workers),
        checkpoint=(1 + optimiser) * parameter_bytes,
    )
