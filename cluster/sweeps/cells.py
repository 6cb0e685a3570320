"""A cell: one training of a sweep, fully described, and the key of its result in the ledger."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import dataio
import evalsuite
import trainer
from cluster.sweeps.description import Choice
from cluster.training import require_trainable
from dataio.records import DataError
from dataio.shards import Manifest
from trainer.choosing import CRITERIA
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.inputs import OpenData
from trainer.sections import STREAM_NAMES, Selection

SIDES = ("queries", "gallery")


@dataclass(frozen=True)
class Choosing:
    """How checkpoints are chosen, the same for all cells of a sweep.

    ``compares`` is the score that a search or early stopping needs on the way, None without them.
    """

    selection: Choice = "last"
    oracle: bool = True
    compares: str | None = None
    validate_every: int | None = None

    @property
    def criterion(self) -> str | None:
        """The criterion without target labels that validation computes."""
        wanted = (self.selection, self.compares)
        return next((name for name in wanted if name in CRITERIA), None)

    @property
    def metric(self) -> str | None:
        """The metric with target labels that validation computes."""
        if self.compares is not None and self.compares not in CRITERIA:
            return self.compares
        return "mAP" if self.oracle or self.selection == "oracle" else None


@dataclass(frozen=True)
class Cell:
    """One training. ``labels`` are its places on the axes, ``after`` the key of the cell whose
    trained network it starts from."""

    labels: dict[str, Any]
    config: RunConfig
    choosing: Choosing
    key: str
    fingerprint: str
    code: str
    after: str | None = None
    sinks: tuple[str, ...] = field(default=(), compare=False)

    def to_text(self) -> str:
        """JSON, for the process that trains it."""
        return json.dumps({**asdict(replace(self, config=None)), "config": self.config.to_dict()})  # pyright: ignore[reportArgumentType]

    @classmethod
    def from_text(cls, text: str) -> Cell:
        """Read what :meth:`to_text` wrote."""
        facts = json.loads(text)
        facts["config"] = parse_config(facts["config"], where="cell")
        facts["choosing"] = Choosing(**facts["choosing"])
        facts["sinks"] = tuple(facts["sinks"])
        return cls(**facts)

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return f"{self.config.method_name}-{self.key}"

    @property
    def shown(self) -> str:
        """``astn · photos a · seed 0``."""
        return " · ".join(_label(name, value) for name, value in self.labels.items())


def _label(axis: str, value: Any) -> str:
    last = axis.rsplit(".", 1)[-1]
    plain = isinstance(value, str) or axis == "method"
    return str(value) if plain else f"{last} {json.dumps(value)}"


def make_cell(
    labels: Mapping[str, Any],
    config: RunConfig,
    choosing: Choosing,
    *,
    code: str,
    after: str | None = None,
    sinks: Sequence[str] = (),
    opened: dict[str, Manifest] | None = None,
) -> Cell:
    """The cell of a run description, with validation as ``choosing`` needs it.

    Args:
        opened: manifests that the cells of a sweep share, see :class:`OpenData`.

    Raises:
        ConfigError: the method cannot do what is asked. DataError: a data set cannot be read.
    """
    data = OpenData(config, opened=opened)
    config = _validated(data, choosing)
    fingerprint = _fingerprint(data)
    key = cell_key(config, choosing, fingerprint=fingerprint, code=code, after=after)
    return Cell(
        labels=dict(labels),
        config=config,
        choosing=choosing,
        key=key,
        fingerprint=fingerprint,
        code=code,
        after=after,
        sinks=tuple(sinks),
    )


def _validated(data: OpenData, choosing: Choosing) -> RunConfig:
    """The run of ``data`` with the validation that the choice of checkpoints needs, if any."""
    config = data.config
    if choosing.criterion is None and choosing.metric is None:
        scored: dict[str, Any] = {"every": None}
    else:
        scored = {
            "every": choosing.validate_every or config.training.checkpoint_every,
            "criterion": choosing.criterion,
            "metric": choosing.metric,
            "split": _validation_split(data),
        }
    tree = config.to_dict()
    tree["validation"] = {**tree["validation"], **scored}
    if scored["every"] is not None:
        tree["training"]["keep_best"] = max(1, config.training.keep_best)
    return parse_config(tree, where="cell")


def _validation_split(data: OpenData) -> str:
    """``val`` where queries and gallery have it, else what is evaluated: as one split, or test, or
    each side's own."""
    sides = [getattr(data.config.data, side) for side in SIDES]
    evaluated = {side.split for side in sides}
    for split in ("val", *(evaluated if len(evaluated) == 1 else ()), "test"):
        if all(_has(data, side, split) for side in sides):
            return split
    return "evaluated"


def _has(data: OpenData, selection: Selection, split: str) -> bool:
    manifest = data.manifest(selection)
    wanted = True if split == "all" else manifest.splits == split
    return bool(((manifest.streams == selection.stream) & wanted).any())


def _in_words_of_the_sweep(error: ConfigError, choosing: Choosing) -> ConfigError:
    """``error`` under the key of the sweep that asks for the criterion it is about."""
    if not str(error).startswith("validation.criterion"):
        return error
    key = "selection" if choosing.selection in CRITERIA else "objective"
    return ConfigError(f"{key}: {error}")


def _fingerprint(data: OpenData) -> str:
    """Hash of the data sets of training, queries and gallery."""
    sides = [getattr(data.config.data, side) for side in SIDES]
    evaluated = {data.manifest(side).fingerprint[:16] for side in sides}
    return ":".join([data.fingerprint, *sorted(evaluated)])


def cell_key(
    config: RunConfig, choosing: Choosing, *, fingerprint: str, code: str, after: str | None
) -> str:
    """Hash (16 hex digits) of everything that a cell's numbers may depend on.

    The content of the data sets counts, their place does not. A network that training starts from
    counts by the key of the cell that trained it.
    """
    tree = config.to_dict()
    del tree["monitoring"]
    for name in ("root", *STREAM_NAMES, *SIDES):
        selection = tree["data"][name]
        if isinstance(selection, dict):
            del selection["root"]
    del tree["data"]["root"]
    if after is not None:
        tree["training"]["init_from"] = after
    facts = {
        "config": tree,
        "selection": choosing.selection,
        "oracle": choosing.oracle,
        "fingerprint": fingerprint,
        "code": code,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def check_data(
    config: RunConfig, choosing: Choosing, *, opened: dict[str, Manifest] | None = None
) -> None:
    """Check that the data sets have what the run trains on and what it is scored by.

    Args:
        choosing: what asks for the run's validation.
        opened: manifests that the cells of a sweep share, see :class:`OpenData`.

    Raises:
        ConfigError, DataError: a stream, split or class is missing.
    """
    data = OpenData(config, opened=opened)
    try:
        require_trainable(data)
    except ConfigError as err:
        raise _in_words_of_the_sweep(err, choosing) from None
    for side in SIDES:
        selection = getattr(config.data, side)
        try:
            data.manifest(selection).select(selection.stream, selection.split)
        except DataError as err:
            raise ConfigError(f"data.{side}: {err}") from None


@lru_cache
def code_version() -> str:
    """Hash (12 hex digits) of the code of the packages that compute a run's numbers."""
    roots = [Path(str(package.__file__)).parent for package in (dataio, evalsuite, trainer)]
    return version_of(
        {
            f"{root.name}/{path.relative_to(root).as_posix()}": path.read_text()
            for root in roots
            for path in root.rglob("*.py")
        }
    )


def version_of(sources: dict[str, str]) -> str:
    """Hash of Python sources by name; comments, docstrings and line breaks do not count."""
    digest = hashlib.sha256()
    for name in sorted(sources):
        tree = ast.parse(sources[name])
        for node in ast.walk(tree):
            _without_docstring(node)
        digest.update(f"{name}\0{ast.dump(tree)}\0".encode())
    return digest.hexdigest()[:12]


def _without_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not (isinstance(body, list) and body and isinstance(body[0], ast.Expr)):
        return
    value = body[0].value
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        del body[0]
