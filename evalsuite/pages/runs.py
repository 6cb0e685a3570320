"""A run on a page: everything its folder holds, read once, and how the run is named and drawn."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.pages.plots import DASHES
from evalsuite.pages.svg import RUN_COLOURS
from evalsuite.run_records import read_records
from evalsuite.scoring import Evaluation, read_evaluation
from evalsuite.search import selected
from evalsuite.vectors import Embeddings, EvaluationError, is_finished, read_embeddings

logger = logging.getLogger(__name__)


@dataclass
class RunView:
    """A run folder in memory. `None` marks a file the folder does not have."""

    path: Path
    info: dict[str, Any]
    """run.json: name, method, dataset, seed, versions, timings, data, ..."""
    config_text: str
    """The resolved configuration as it was written."""
    log: list[dict[str, Any]]
    """One record a logged step; empty for a run without a log."""
    validation: list[dict[str, Any]]
    """One record a step that was scored on the way; empty for a run without validation."""
    evaluation: Evaluation
    queries: Embeddings | None
    gallery: Embeddings | None
    initial_queries: Embeddings | None
    """Embeddings of the untrained network, for the picture "before"."""
    initial_gallery: Embeddings | None

    @property
    def name(self) -> str:
        """The run's name, or its folder's name where run.json gives none."""
        return str(self.info.get("name") or self.path.name)

    @property
    def is_source_only(self) -> bool:
        """True for the run without adaptation, the yardstick of the others."""
        return str(self.info.get("method", "")).replace("_", "-").lower() == "source-only"


def view_run(path: Path | str) -> RunView:
    """Read a run folder.

    run.json, config.yaml and evaluation/metrics.json must be there; the logs, the per-query table
    and the embeddings may be absent. Raises EvaluationError that names the file and the remedy for
    a missing or unreadable file.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise EvaluationError(f"{folder} is no run folder; give the folder that holds run.json")
    train = "train it with `img2shape train`"
    _required(folder / "evaluation" / "metrics.json", f"run `img2shape eval {folder}` first")
    vectors = folder / "embeddings"
    return RunView(
        path=folder,
        info=_json_object(_required(folder / "run.json", train)),
        config_text=_text(_required(folder / "config.yaml", train)),
        evaluation=read_evaluation(folder),
        log=_records(folder / "log.jsonl"),
        validation=_records(folder / "validation.jsonl"),
        queries=_embeddings(vectors / "queries"),
        gallery=_embeddings(vectors / "gallery"),
        initial_queries=_embeddings(vectors / "initial-queries"),
        initial_gallery=_embeddings(vectors / "initial-gallery"),
    )


@dataclass(frozen=True)
class RunLine:
    """A run's name on the page, and the index of its colour and dash pattern."""

    name: str
    index: int

    @property
    def colour(self) -> str:
        """The colour as a CSS value."""
        return f"var(--run-{self.index % len(RUN_COLOURS)})"

    @property
    def dashes(self) -> str:
        """The dash pattern as SVG writes it, empty for a solid line."""
        return " ".join(map(str, DASHES[self.index % len(DASHES)]))


def run_lines(runs: Sequence[RunView]) -> list[RunLine]:
    """Dotted grey for the first source-only run, then colours in order; equal names get numbers."""
    yardstick = next((run for run in runs if run.is_source_only), None)
    seen: Counter[str] = Counter()
    lines: list[RunLine] = []
    index = 0
    for run in runs:
        seen[run.name] += 1
        name = run.name if seen[run.name] == 1 else f"{run.name} ({seen[run.name]})"
        index += run is not yardstick
        lines.append(RunLine(name, 0 if run is yardstick else index))
    return lines


def _required(path: Path, remedy: str) -> Path:
    if not path.is_file():
        raise EvaluationError(f"{path} is missing; {remedy}")
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); write the run again") from error


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise EvaluationError(f"{path} is not JSON ({error}); write it again") from error
    if not isinstance(content, dict):
        raise EvaluationError(f"{path} must hold one JSON object; write it again")
    return content


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return read_records(path)
    except OSError as error:
        raise EvaluationError(f"{path} cannot be read ({error}); write the run again") from error


def _embeddings(path: Path) -> Embeddings | None:
    """Finite rows only: the page of a diverged run must still be readable."""
    single = path.with_name(f"{path.name}.parquet")  # written by older versions
    if not is_finished(path):
        if not single.is_file():
            return None
        path = single
    embeddings = read_embeddings(path, non_finite="keep")
    finite = np.isfinite(embeddings.vectors).all(axis=1)
    if finite.all():
        return embeddings
    logger.warning("%s: %d rows hold NaN or Inf and are left out", path, int((~finite).sum()))
    rows = np.flatnonzero(finite)
    return selected(embeddings, rows) if len(rows) else None
