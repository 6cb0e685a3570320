"""Scores of a run during training; they choose among checkpoints and do not change the training.

At every due step all ranks embed queries and gallery of the validation split, rank 0 scores them
exactly, and all ranks get the scores. This uses labels of the split. Where the split belongs to the
target domain, a checkpoint chosen by these scores is an oracle's choice. ``validation.criterion``
adds a score without labels of the target (:mod:`trainer.validation.criterion_scores`). Training is
not affected: no random number is drawn and no statistic changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataio.loading import StreamSource
from evalsuite.scoring import evaluate
from evalsuite.vectors import Embeddings
from trainer.choosing import criterion_place
from trainer.config import ConfigError
from trainer.extraction import embed_whole
from trainer.inputs import OpenData
from trainer.methods import METHODS, Method
from trainer.runs import Checkpoint, StepLog, comparable_scores, drop_records
from trainer.sections import Selection
from trainer.synchronised import collectives
from trainer.validation.criterion_scores import (
    StreamLogits,
    criterion_score,
    criterion_sources,
    whole_logits,
)
from trainer.watching import Observer, PhaseClock, ReadCounts

SIDES = ("queries", "gallery")
_WITHOUT_SPLIT = (
    "choose another split, pack one (own folders: `data pack folder -o val_share=0.1`), "
    "or let a criterion choose without labels: validation.metric=null validation.criterion=im"
)
Scores = dict[str, float]


def require_scorable(data: OpenData) -> None:
    """Check that the data have what validation needs; the errors are those of
    :func:`validation_sources` and :func:`trainer.validation.criterion_scores.criterion_sources`."""
    validation_sources(data)
    criterion_sources(data)


def validation_sources(data: OpenData) -> dict[str, StreamSource]:
    """Queries and gallery that are scored during training; none where ``validation.every`` or
    ``validation.metric`` is null.

    Raises:
        ConfigError: the split has no sample there, or no query has a shape of its class.
        DataError: a data set cannot be read, or a sample has no label to score it by.
    """
    wanted = data.config.validation
    if wanted.every is None or wanted.metric is None:
        return {}
    sources = {side: _source(data, side) for side in SIDES}
    queries, gallery = (set(s.manifest.labels[s.rows].tolist()) for s in sources.values())
    if not queries & gallery:
        raise ConfigError(
            f"validation.split: no query of split '{wanted.split}' has a shape of its "
            f"class there (queries: {', '.join(sorted(queries)[:3])}, gallery: "
            f"{', '.join(sorted(gallery)[:3])}); choose another split"
        )
    return sources


def _source(data: OpenData, side: str) -> StreamSource:
    split = data.config.validation.split
    selection: Selection = getattr(data.config.data, side)
    if split != "evaluated":
        selection = selection.model_copy(update={"split": split})
    data.require_samples(selection, key="validation.split", name=side, remedy=_WITHOUT_SPLIT)
    return data.evaluation_source(selection)


class Validation(Observer):
    """Scores a run before its state is saved, and knows the last scores; every rank has one.

    Args:
        log: file that rank 0 appends the scores to, a JSON object a line.
        method: what is scored.
        evaluating: the block in which it can be scored: evaluation mode, no gradient.
        device, dtype: of the pixels.
    """

    def __init__(
        self,
        data: OpenData,
        log: Path,
        *,
        method: Method,
        evaluating: Callable[[], AbstractContextManager[None]],
        device: torch.device,
        dtype: torch.dtype,
        clock: PhaseClock,
    ) -> None:
        require_scorable(data)
        self.config, self.log, self.clock = data.config, log, clock
        self.method, self.evaluating = method, evaluating
        self.device, self.dtype = device, dtype
        self._data = data
        self._last: tuple[int, Scores] = (-1, {})

    # Made at the first score: by then ``data`` reads the features of frozen stages.
    @cached_property
    def sources(self) -> dict[str, StreamSource]:
        """Queries and gallery that the metric is computed on; none without a metric."""
        return validation_sources(self._data)

    @cached_property
    def criterion_sources(self) -> dict[str, StreamSource]:
        """The streams that the criterion is computed on; none without a criterion."""
        return criterion_sources(self._data)

    def known(self, step: int) -> Scores:
        """Scores of the state after ``step`` steps for its checkpoint; may be none.

        A method with a last fit is scored during training too. But its checkpoints before the fit
        hold another model and get no scores.
        """
        at, scores = self._last
        method = METHODS[self.config.method_name]
        fitted = step == self.config.training.steps or method.finish is Method.finish
        return scores if at == step and fitted else {}

    def resumed(self, found: Checkpoint) -> None:
        """Take over the scores that the checkpoint carries, if all that this run wants are there
        and were computed under the same conditions."""
        scores = comparable_scores(found.description, {"config": self.config.to_dict()})
        validation = self.config.validation
        wanted = {name for name in (validation.metric, validation.criterion) if name is not None}
        if scores and wanted <= scores.keys():  # JSON has null for NaN
            known = {k: math.nan if v is None else v for k, v in scores.items()}
            self._last = (found.step, known)

    def started(self, step: int, loader: ReadCounts) -> None:
        """Remove the scores of steps that are trained again."""
        if collectives.rank() == 0 and self.log.exists():
            drop_records(self.log, from_step=step + 1)

    def saving(self, step: int, *, last: bool) -> None:
        """Score the state that is to be saved, where that is due."""
        if self.due(step):
            with self.clock.phase("validation"), self.evaluating():
                self.score(self.method, step=step)

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
            "on_part": self.clock.beat,
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
            self.clock.beat()
        return scores

    def _scored(self, vectors: Mapping[str, Tensor]) -> Scores:
        queries, gallery = (_embeddings(self.sources[side], vectors[side]) for side in SIDES)
        options = self.config.evaluation.options()
        # A diverging network scores badly. That is no error here: the finite check stops the run.
        found = evaluate(
            queries,
            gallery,
            nan_policy="last",
            progress=lambda done, of: self.clock.beat(),
            **options,
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
