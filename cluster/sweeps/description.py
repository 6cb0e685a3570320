"""A sweep file: a run description, the axes along which it is varied, and how to go about it.

    name: pairs
    config: configs/procedural/{method}.yaml
    set: {training.steps: 200}
    axes:
      method: [source-only, dann, astn]
      pair:
        own style: {data.root: data/procedural-small}
        other style: {data.root: data/procedural-small-b}
      network.backbone: [tiny, resnet18]
      training.seed: [0, 1, 2]

An axis is named after a key of a run description and lists its values; or it has a name of its own
and gives, for each label, the keys that are set; or it is a distribution to draw from, such as
``{loguniform: [0.001, 0.1]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dataio.names import nearest
from evalsuite.scoring import HEADLINES
from trainer.choosing import CRITERIA
from trainer.config import read_yaml, validated
from trainer.methods import METHODS
from trainer.sections import Section

DISTRIBUTIONS = ("uniform", "loguniform", "int")
Choice = Literal["last", "entropy", "im", "snd", "source-val", "oracle"]


class Search(Section):
    """Which points of the axes are trained."""

    kind: Literal["grid", "random", "optuna"] = Field(
        default="grid",
        description="grid: every combination; random: every combination of the lists with each of "
        "`trials` draws from the distributions, the same draws for all; optuna: `trials` points "
        "that its sampler proposes after the results so far (pip install 'img2shape[search]').",
    )
    trials: int | None = Field(
        default=None, ge=1, description="Draws (random) or points (optuna); grid has none."
    )
    seed: int = Field(default=0, ge=0, description="Of the draws and of the sampler.")

    @model_validator(mode="after")
    def _counted(self) -> Search:
        if (self.kind == "grid") != (self.trials is None):
            raise ValueError(
                "trials: a grid has none, every combination is trained; leave it out"
                if self.kind == "grid"
                else f"trials: {self.kind} needs their number, e.g. trials: 20"
            )
        return self


class EarlyStopping(Section):
    """Early stopping by ASHA: at each rung only the better cells go on training."""

    kind: Literal["asha"] = Field(default="asha", description="The scheduler.")
    grace_steps: int = Field(ge=1, description="Steps that every cell trains at least.")
    reduction: int = Field(
        default=3, ge=2, description="At each rung one of this many cells goes on."
    )


class Sweep(Section):
    """A sweep file."""

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="Name of the sweep and of its page's folder.",
    )
    config: str = Field(
        description="Run description that all cells start from, beside the sweep file or in the "
        "working directory; {method} stands for the method's name, so that each starts from its "
        "own."
    )
    set: dict[str, Any] = Field(
        default={}, description="Keys set in all cells; axes override them."
    )
    axes: dict[str, Any] = Field(default={}, description="What is varied; see above.")
    search: Search = Field(default=Search(), description="Which points of the axes are trained.")
    early_stopping: EarlyStopping | None = Field(
        default=None, description="Stop cells that do badly early; null: all train to the end."
    )
    selection: Choice = Field(
        default="last",
        description="The checkpoint whose numbers count: last, or the best by a criterion that "
        "reads no target label (entropy, im, snd, source-val), or the oracle's.",
    )
    objective: str | None = Field(
        default=None,
        description="What optuna and early stopping compare: entropy, im, snd, source-val, or a "
        "metric, which makes every number of the sweep an oracle's; null: the selection's "
        "criterion, else im.",
    )
    oracle: bool = Field(
        default=True,
        description="Also find the checkpoint that the labels would have chosen; shown beside.",
    )
    validate_every: int | None = Field(
        default=None,
        ge=1,
        description="Steps between two validations; null: training.checkpoint_every of each cell.",
    )
    retries: int = Field(
        default=1, ge=0, description="Times that a cell which failed is tried again."
    )
    reports: bool = Field(
        default=True, description="Write each cell's own report, which the page links to."
    )
    sinks: tuple[str, ...] = Field(
        default=(), description="tensorboard, mlflow, wandb: where each cell also logs."
    )

    @field_validator("axes", "set", mode="before")
    @classmethod
    def _nothing(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("axes")
    @classmethod
    def _axes_with_values(cls, axes: dict[str, Any]) -> dict[str, Any]:
        for name, values in axes.items():
            _require_values(name, values)
        return axes

    @model_validator(mode="after")
    def _comparable(self) -> Sweep:
        known = (*CRITERIA, *HEADLINES)
        if self.objective is not None and self.objective not in known:
            raise ValueError(
                f"objective: no such score '{self.objective}'{nearest(self.objective, known)}"
            )
        return self

    @model_validator(mode="after")
    def _one_criterion(self) -> Sweep:
        both = self.objective in CRITERIA and self.selection in CRITERIA
        if both and self.objective != self.selection:
            raise ValueError(
                f"objective: '{self.objective}' beside selection '{self.selection}': a run "
                "computes one criterion; leave objective out, or take a metric"
            )
        return self

    @model_validator(mode="after")
    def _drawn_only_when_searching(self) -> Sweep:
        drawn = [name for name, values in self.axes.items() if distribution(values)]
        if drawn and self.search.kind == "grid":
            raise ValueError(
                f"axes: {drawn[0]} is a distribution, which a grid cannot list; give values, or "
                "search: {kind: random, trials: 20}"
            )
        if not drawn and self.search.kind == "random":
            raise ValueError(
                "search: random draws from distributions, and no axis is one; use {kind: grid}"
            )
        return self

    @property
    def compares(self) -> str:
        """The score that optuna and early stopping compare."""
        if self.objective is not None:
            return self.objective
        return self.selection if self.selection in CRITERIA else "im"


def distribution(values: Any) -> tuple[str, float, float] | None:
    """``("uniform", low, high)`` for a distribution, None for a list or labelled values."""
    if not (isinstance(values, Mapping) and len(values) == 1):
        return None
    (kind, bounds), *_ = values.items()
    if kind not in DISTRIBUTIONS or not isinstance(bounds, list):
        return None
    low, high = bounds
    return kind, low, high


def _require_values(name: str, values: Any) -> None:
    if isinstance(values, Mapping) and len(values) == 1 and next(iter(values)) in DISTRIBUTIONS:
        (kind, bounds), *_ = values.items()
        if not isinstance(bounds, Mapping):
            _require_bounds(name, kind, bounds)
            return
    if isinstance(values, Mapping):
        for label, keys in values.items():
            if not isinstance(keys, Mapping):
                raise ValueError(
                    f"{name}: '{label}' is {keys!r}; give the keys it sets, as "
                    f"{label}: {{training.steps: 50}}, or list values: {name}: [1, 2]"
                )
    if not isinstance(values, Mapping | list) or not values:
        raise ValueError(f"{name}: expected a list of values, found {values!r}")
    if isinstance(values, list) and len({repr(v) for v in values}) < len(values):
        raise ValueError(f"{name}: a value is listed twice in {values}")


def _require_bounds(name: str, kind: str, bounds: Any) -> None:
    numbers = isinstance(bounds, list) and len(bounds) == 2
    numbers = numbers and all(isinstance(b, int | float) for b in bounds)
    if not numbers or bounds[0] >= bounds[1] or (kind == "loguniform" and bounds[0] <= 0):
        above = " above 0" if kind == "loguniform" else ""
        raise ValueError(f"{name}: {kind} takes [low, high]{above}, found {bounds!r}")
    if kind == "int" and not all(isinstance(b, int) for b in bounds):
        raise ValueError(f"{name}: int takes two whole numbers, found {bounds!r}")


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep file.

    Raises:
        ConfigError: it is missing, not YAML, has an unknown key (with the nearest match) or a value
            that does not fit.
    """
    tree = read_yaml(path, ready="configs/sweeps/", expected="keys (config, axes, ...)")
    sweep = validated(Sweep, {"name": Path(path).stem, **tree}, where=str(path))
    return sweep.model_copy(update={"config": _found(sweep.config, Path(path).parent)})


def _found(config: str, folder: Path) -> str:
    """``config`` beside the sweep file where it is there, else in the working directory."""
    beside = any((folder / config.replace("{method}", name)).is_file() for name in METHODS)
    return str(folder / config) if beside else config
