"""Scores of a run on its way: they choose among checkpoints and train nothing.

At every due step all ranks embed queries and gallery of the validation split, rank 0 scores them
exactly, and all ranks learn the scores. Labels of the split are read. Where it belongs to the
target domain, a checkpoint chosen by these scores is an oracle's choice; ``validation.criterion``
adds a score that needs no label of the target (:mod:`trainer.validation.criterion_scores`).
Training goes on as if nothing had happened: no random number is drawn and no statistic changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataio.loading import StreamSource
from evalsuite.scoring import evaluate
from evalsuite.vectors import Embeddings
from trainer.choosing import criterion_place
from trainer.config import ConfigError, RunConfig
from trainer.extraction import embed_whole
from trainer.inputs import evaluation_source, require_samples
from trainer.methods import METHODS, Method
from trainer.runs import StepLog
from trainer.sections import Selection
from trainer.synchronised import collectives
from trainer.validation.criterion_scores import (
    StreamLogits,
    criterion_score,
    criterion_sources,
    whole_logits,
)

SIDES = ("queries", "gallery")
Scores = dict[str, float]


def require_scorable(config: RunConfig) -> None:
    """Check that the data have what validation needs; the errors are those of
    :func:`validation_sources` and :func:`trainer.validation.criterion_scores.criterion_sources`."""
    validation_sources(config)
    criterion_sources(config)


def validation_sources(config: RunConfig) -> dict[str, StreamSource]:
    """Queries and gallery that are scored on the way; none where ``validation.every`` or
    ``validation.metric`` is null.

    Raises:
        ConfigError: the split has no sample there, or no query has a shape of its class.
        DataError: a data set cannot be read, or a sample has no label to score it by.
    """
    if config.validation.every is None or config.validation.metric is None:
        return {}
    sources = {side: _source(config, side) for side in SIDES}
    queries, gallery = (set(s.manifest.labels[s.rows].tolist()) for s in sources.values())
    if not queries & gallery:
        raise ConfigError(
            f"validation.split: no query of split '{config.validation.split}' has a shape of its "
            f"class there (queries: {', '.join(sorted(queries)[:3])}, gallery: "
            f"{', '.join(sorted(gallery)[:3])}); choose another split"
        )
    return sources


def _source(config: RunConfig, side: str) -> StreamSource:
    split = config.validation.split
    selection: Selection = getattr(config.data, side).model_copy(update={"split": split})
    require_samples(
        config, selection, key="validation.split", name=side, remedy="choose another split"
    )
    return evaluation_source(config, selection)


class Validation:
    """When a run is scored, and what it scored last; every rank has one.

    Args:
        log: file that rank 0 appends the scores to, a JSON object a line.
        device, dtype: of the pixels.
        beat: called whenever a part of the work is done.
    """

    def __init__(
        self,
        config: RunConfig,
        log: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        beat: Callable[[], None],
    ) -> None:
        self.config, self.log, self.beat = config, log, beat
        self.device, self.dtype = device, dtype
        self.sources = validation_sources(config)
        self.criterion_sources = criterion_sources(config)
        self._last: tuple[int, Scores] = (-1, {})

    def known(self, step: int) -> Scores:
        """Scores of the state after ``step`` steps, as they stand in its checkpoint; may be none.

        A method with a last fit is scored on its way too, but its checkpoints have no scores
        before the fit: they hold another model.
        """
        at, scores = self._last
        method = METHODS[self.config.method_name]
        fitted = step == self.config.training.steps or method.finish is Method.finish
        return scores if at == step and fitted else {}

    def remember(self, step: int, scores: Mapping[str, float | None] | None) -> None:
        """Take over the scores that a checkpoint of this run carries, if they are all there."""
        validation = self.config.validation
        wanted = {name for name in (validation.metric, validation.criterion) if name is not None}
        if scores and wanted <= scores.keys():  # JSON has null for NaN
            self._last = (step, {k: math.nan if v is None else v for k, v in scores.items()})

    def due(self, step: int) -> bool:
        """Whether the state after ``step`` steps is to be scored and has not been yet."""
        every, last = self.config.validation.every, self.config.training.steps
        return every is not None and self._last[0] != step and (step % every == 0 or step == last)

    def score(self, method: Method, *, step: int) -> None:
        """Score ``method``, in evaluation mode and without gradient; called by all ranks.

        Raises:
            EvaluationError, OSError: the scores cannot be computed or written; on every rank.
        """
        options: dict[str, Any] = {
            "batch": self.config.evaluation.batch,
            "dtype": self.dtype,
            "device": self.device,
            "on_part": self.beat,
        }
        vectors = {side: embed_whole(method, s, **options) for side, s in self.sources.items()}
        sources = self.criterion_sources.items()
        logits = {name: whole_logits(method, source, **options) for name, source in sources}
        scores, error = {}, None
        if collectives.rank() == 0:
            try:
                scores = self._all_scores(vectors, logits)
                self._write(step, scores)
            except Exception as err:
                error = err
        collectives.raise_together(error)
        self._last = (step, collectives.broadcast_object(scores))

    def _all_scores(
        self, vectors: Mapping[str, Tensor], logits: Mapping[str, StreamLogits]
    ) -> Scores:
        scores, criterion = (
            self._scored(vectors) if vectors else {},
            self.config.validation.criterion,
        )
        if criterion is not None:
            scores[criterion] = criterion_score(criterion, logits.values())
            self.beat()
        return scores

    def _scored(self, vectors: Mapping[str, Tensor]) -> Scores:
        queries, gallery = (_embeddings(self.sources[side], vectors[side]) for side in SIDES)
        options = self.config.evaluation.options()
        # A diverging network scores badly; whether it is an error, its losses will tell.
        found = evaluate(
            queries, gallery, nan_policy="last", progress=lambda done, of: self.beat(), **options
        )
        return dict(found.headline)

    def _write(self, step: int, scores: Scores) -> None:
        config = self.config.validation
        record: dict[str, Any] = {"step": step}
        if config.metric is not None:
            record |= {"split": config.split, "protocol": self.config.evaluation.protocol}
        if config.criterion is not None:
            record["criterion"] = criterion_place(self.config.to_dict(), config.criterion)
        record["scores"] = scores
        log = StepLog(self.log, from_step=step)
        try:
            log.write(record)
        finally:
            log.close()


def _embeddings(source: StreamSource, vectors: Tensor) -> Embeddings:
    manifest, rows = source.manifest, source.rows
    return Embeddings(
        [manifest.keys[row] for row in rows],
        [str(manifest.labels[row]) for row in rows],
        vectors.cpu().numpy(),
    )
