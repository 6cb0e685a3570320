"""From a checkpoint to embeddings: every item of a stream exactly once, at any number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataio.loading import Preprocessing, StreamSource
from dataio.shards import Manifest
from trainer.building import DTYPES, build_method
from trainer.config import RunConfig, parse_config
from trainer.extraction.embed_stream import embed_batches
from trainer.inputs import FeatureStore, OpenData
from trainer.methods import Method
from trainer.networks import parsed_preprocessing, without_weights
from trainer.runs import Checkpoint, Scored, open_selected, start_from


@dataclass(frozen=True)
class TrainedRun:
    """A method with trained weights, the run's data, and where the weights came from.

    ``scored`` says by which score the checkpoint was chosen; None for the newest and a given one.
    """

    method: Method
    data: OpenData
    checkpoint: Checkpoint
    scored: Scored | None = None

    @property
    def config(self) -> RunConfig:
        return self.data.config

    @property
    def fingerprint(self) -> str:
        """Hash of the weights' file and of the training data."""
        description = self.checkpoint.description
        return f"{description['sha256'][:16]}:{description['fingerprint']}"


def load_run(
    path: Path,
    *,
    select: str = "last",
    data: str | None = None,
    opened: dict[str, Manifest] | None = None,
) -> TrainedRun:
    """The newest whole checkpoint of a run folder, or the checkpoint that ``path`` is.

    Args:
        data: where the run's data set lies now; None: where it was trained.
        select: ``last``; ``oracle`` or a criterion takes the best one of the run folder by such a
            score instead.
        opened: manifests that several runs share, see :class:`OpenData`.

    Raises:
        ConfigError: ``path`` is neither, or holds no whole checkpoint; ``select`` is unknown, or
            asks for a score and ``path`` is no run folder, or has no checkpoint with that score.
    """
    checkpoint, scored = open_selected(path, select)
    description = checkpoint.description
    config = parse_config(description["config"], where=str(checkpoint.path))
    if data is not None:
        section = config.data.model_copy(update={"root": data})
        config = config.model_copy(update={"data": section})
    config = _as_trained(config, description)
    classes = description["classes"]
    with without_weights():
        method = build_method(config, num_classes=len(classes), classes=classes)
    method.load_state_dict(checkpoint.state["method"])
    method, held = method.eval(), OpenData(config, opened=opened)
    if config.network.reads_features:
        dtype = DTYPES[config.training.precision]
        held.read_features(FeatureStore(config, method, dtype=dtype))
    return TrainedRun(method, held, checkpoint, scored)


def _as_trained(config: RunConfig, description: Mapping[str, Any]) -> RunConfig:
    """The run with the preprocessing that its checkpoint was trained with, whatever the registry of
    a library says today."""
    if description.get("preprocessing") is None:  # from before it was kept: always this
        images = shapes = Preprocessing(size=config.network.facts.size)
    else:
        images = parsed_preprocessing(description["preprocessing"], where="checkpoint")
        own = description.get("shape_preprocessing")  # where it is another one
        shapes = images if own is None else parsed_preprocessing(own, where="checkpoint")
    network = config.network.trained_on(images, shapes)
    return config.model_copy(update={"network": network})


def untrained(run: TrainedRun) -> Method:
    """The same method with the weights it had before its first step (same seed)."""
    classes = run.checkpoint.description["classes"]
    method = build_method(run.config, num_classes=len(classes), classes=classes)
    if run.config.training.init_from is not None:
        start_from(method, Path(run.config.training.init_from), classes=classes)
    return method.eval()


@torch.inference_mode()
def extract(
    method: Method,
    source: StreamSource,
    *,
    batch: int,
    precision: str,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world_size: int = 1,
    on_items: Callable[[int], None] | None = None,
) -> tuple[list[str], list[str], np.ndarray]:
    """Embed this rank's share of a stream in evaluation mode.

    Args:
        source: queries (images) or gallery (shapes, all views).
        batch: samples per forward pass.
        on_items: called with the number of items after each batch.

    Returns keys, class names as the data set gives them, and float32 embeddings ``[n, D]``, in the
    order of the stream.
    """
    method = method.to(device).eval()
    keys: list[str] = []
    labels: list[str] = []
    vectors: list[np.ndarray] = []
    parts = embed_batches(
        method,
        source,
        batch=batch,
        dtype=DTYPES[precision],
        device=device,
        rank=rank,
        world_size=world_size,
    )
    for part, embedded in parts:
        vectors.append(embedded.float().cpu().numpy())
        keys += part.keys
        labels += [str(source.manifest.labels[row]) for row in part.row.tolist()]
        if on_items is not None:
            on_items(len(part.keys))
    width = vectors[0].shape[1] if vectors else 0
    return keys, labels, np.concatenate(vectors or [np.zeros((0, width), np.float32)])
