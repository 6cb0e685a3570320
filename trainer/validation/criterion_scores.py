"""Criteria of :mod:`trainer.choosing.criteria` on the streams of a run, the same for any number of
ranks.

The labels of an unlabelled stream are hidden before anything here sees them.

Axis letters: N samples of a stream, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dataio.loading import StreamSource
from trainer.choosing import UNSUPERVISED, criterion_selections, source_accuracy
from trainer.config import ConfigError, RunConfig
from trainer.inputs import OpenData, training_selections, walk_stream
from trainer.methods import Method
from trainer.sections import Selection
from trainer.synchronised import collectives


@dataclass(frozen=True)
class StreamLogits:
    """Class logits ``[N, K]`` and labels ``[N]`` of a whole stream in its order; hidden labels are
    -1."""

    logits: Tensor
    labels: Tensor


def criterion_sources(data: OpenData) -> dict[str, StreamSource]:
    """The streams that ``validation.criterion`` is computed on; none where it is null.

    Raises:
        ConfigError: a stream has no sample in the split that is needed, or source-val would be
            measured on samples that are trained on.
        DataError: a data set cannot be read, or a held-out source sample has no label.
    """
    config, sources = data.config, {}
    criterion = config.validation.criterion
    if criterion is None:
        return sources
    labelled = criterion == "source-val"
    for name, fields in criterion_selections(config.to_dict(), criterion).items():
        selection = Selection(**fields)
        if labelled:
            _require_held_out(config, name)
        data.require_samples(
            selection,
            key=f"validation.criterion={criterion}",
            name=name,
            remedy=(
                "choose entropy, im or snd, or pack one (own folders: `data pack folder -o "
                "val_share=0.1`)"
                if labelled
                else "choose source-val, or null"
            ),
        )
        where = f"data.{name} ({selection.split})"
        sources[name] = data.criterion_source(selection, labelled=labelled, where=where)
    return sources


def _require_held_out(config: RunConfig, name: str) -> None:
    split = training_selections(config)[name].split
    if split in ("val", "all"):
        raise ConfigError(
            f"validation.criterion=source-val: data.{name} trains on split '{split}', so that "
            "split 'val' is not held out; train on split train, or choose entropy, im or snd"
        )


def whole_logits(
    method: Method,
    source: StreamSource,
    *,
    batch: int,
    dtype: torch.dtype,
    device: torch.device,
    on_part: Callable[[], None],
) -> StreamLogits:
    """Class logits of a whole stream, on every rank; called by all of them.

    The caller puts ``method`` into evaluation mode and turns gradients off. Every rank holds N·K
    numbers.

    Args:
        batch: samples per forward pass, over all ranks.
        dtype: of the pixels.
        on_part: called after each part.
    """
    logits, labels, places = [], [], []
    parts = walk_stream(
        source,
        batch=batch,
        rank=collectives.rank(),
        world_size=collectives.world_size(),
        device=device,
        dtype=dtype,
    )
    for part in parts:
        assert part.samples is not None, "a walk numbers its samples"
        logits.append(method.class_logits(part.pixels))
        labels.append(part.labels)
        places.append(part.samples)
        on_part()
    gathered = torch.cat(logits)
    marks = torch.stack([torch.cat(places), torch.cat(labels)], 1).to(gathered.device)
    gathered, marks = collectives.all_gather_rows(gathered), collectives.all_gather_rows(marks)
    order = marks[:, 0].argsort()
    return StreamLogits(gathered[order], marks[order, 1])


def criterion_score(criterion: str, streams: Iterable[StreamLogits]) -> float:
    """The criterion's value, its mean where there are several streams."""
    if criterion == "source-val":
        values = [source_accuracy(stream.logits, stream.labels) for stream in streams]
    else:
        values = [UNSUPERVISED[criterion](stream.logits) for stream in streams]
    return sum(values) / len(values)
