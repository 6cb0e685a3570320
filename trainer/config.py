"""The description of one run: typed, validated, every field documented.

A run is a YAML file plus ``key=value`` overrides. Unknown keys are refused with the nearest match.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, ValidationError, field_validator

from dataio.augment import AugmentConfig
from trainer.methods import METHODS, MethodConfig
from trainer.networks.options import NetworkConfig
from trainer.schedules import Schedule

__all__ = [
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "OptimizerConfig",
    "RunConfig",
    "Selection",
    "TrainingConfig",
    "load_config",
    "nearest",
    "parse_config",
]


class ConfigError(ValueError):
    """A run description that cannot be used; the message names the key and the remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Selection(_Section):
    """One stream of one data set."""

    stream: Literal["image", "sketch", "shape"] = Field(description="Kind of samples.")
    split: Literal["train", "val", "test"] = Field(description="Split of the data set.")
    root: str | None = Field(
        default=None, description="Folder of the packed data set; null: data.root."
    )


class DataConfig(_Section):
    """Which packed data set feeds which stream."""

    root: str = Field(
        default="data/procedural-small",
        description="Folder of a packed data set (manifest.parquet).",
    )
    dataset: str = Field(default="procedural", description="Name shown in tables and reports.")
    classes: tuple[str, ...] | None = Field(
        default=None, description="The label space; null takes the classes of the data set."
    )
    num_classes: int | None = Field(
        default=None,
        ge=1,
        description="Class count for `img2shape model` while the data are absent.",
    )
    source_images: Selection = Field(
        default=Selection(stream="image", split="train"), description="Labelled source images."
    )
    target_shapes: Selection = Field(
        default=Selection(stream="shape", split="train"),
        description="Unlabelled target shapes; their labels are never read in training.",
    )
    queries: Selection = Field(
        default=Selection(stream="image", split="test"), description="Queries of the evaluation."
    )
    gallery: Selection = Field(
        default=Selection(stream="shape", split="test"), description="Gallery of the evaluation."
    )
    train_views: int | None = Field(
        default=None,
        ge=1,
        description="Views drawn per shape and pass in training; null: all of them.",
    )
    block_shards: int = Field(
        default=4,
        ge=1,
        description="Shards shuffled together: randomness against locality of reads.",
    )
    augment: AugmentConfig | None = Field(
        default=AugmentConfig(), description="Augmentation of training samples; null: none."
    )


class OptimizerConfig(_Section):
    """Optimiser and learning-rate schedule."""

    kind: Literal["sgd", "adam"] = Field(default="sgd", description="Optimiser.")
    learning_rate: float = Field(
        default=0.01, gt=0, description="μ0, the rate of the trunk at p = 0."
    )
    schedule: Schedule = Field(default="inverse", description="inverse: μ0·(1 + 10p)^-0.75.")
    warmup: float = Field(
        default=0.0, ge=0, lt=1, description="Share of training with a linear rise of the rate."
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="SGD momentum.")
    weight_decay: float = Field(default=5e-4, ge=0, description="Not given in the papers.")
    new_layer_multiplier: float = Field(
        default=10.0,
        gt=0,
        description="Rate of bottleneck, classifier and discriminator relative to a pre-trained "
        "trunk; without effect when network.weights is none. Not given in the papers.",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="Largest global gradient norm; null: no clipping."
    )


class TrainingConfig(_Section):
    """The loop."""

    steps: int = Field(default=1000, ge=1, description="Optimiser steps.")
    batch: int = Field(default=64, ge=1, description="Global batch per stream, over all workers.")
    seed: int = Field(
        default=0, ge=0, description="Seed of weights, order, augmentation and dropout."
    )
    precision: Literal["float32", "float64", "bf16"] = Field(
        default="float32", description="Arithmetic of the trunk; losses are never below float32."
    )
    log_every: int = Field(default=10, ge=1, description="Steps between two lines of log.jsonl.")
    checkpoint_every: int = Field(default=200, ge=1, description="Steps between two checkpoints.")
    keep_checkpoints: int = Field(default=2, ge=1, description="Newest checkpoints kept.")
    loader_workers: int = Field(default=0, ge=0, description="Loader processes per worker.")
    cache: Literal["none", "memory"] = Field(
        default="none",
        description="memory: keep decoded samples in each process after the first read.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="CPU threads per worker; null: OMP_NUM_THREADS (Ray and torchrun set it to 1), "
        "else cores / workers.",
    )
    timeout_seconds: float = Field(default=600.0, gt=0, description="Longest wait in a collective.")


class EvaluationConfig(_Section):
    """How embeddings are scored."""

    protocol: Literal["mi3dor", "shrec"] = Field(
        default="mi3dor", description="Metric definitions."
    )
    features: Literal["raw", "clamp-l2", "l2"] = Field(
        default="raw", description="Post-processing; clamp-l2 is the MI3DOR script's."
    )
    metric: Literal["euclidean", "cosine"] = Field(default="euclidean", description="Distance.")
    batch: int = Field(default=64, ge=1, description="Samples per forward pass of the extraction.")


class RunConfig(_Section):
    """One training run."""

    method: SerializeAsAny[MethodConfig]
    method_name: str
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @field_validator("method", mode="before")
    @classmethod
    def _keep_method(cls, value: Any) -> Any:
        assert isinstance(value, MethodConfig), "built by parse_config"
        return value

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary in the form of the YAML file; ``parse_config`` reads it back."""
        tree = self.model_dump(mode="json", exclude={"method_name"})
        tree["method"] = {"name": self.method_name, **tree["method"]}
        order = ("method", "data", "network", "optimizer", "training", "evaluation")
        return {section: tree[section] for section in order}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=100)

    @property
    def identity(self) -> str:
        """Hash (12 hex digits) of everything that shapes the trained weights.

        How a run is executed (loader workers, threads, logging, checkpoints) is left out, and so
        are the queries, the gallery and the scoring.
        """
        tree = self.to_dict()
        del tree["evaluation"]
        for key in ("root", "queries", "gallery"):
            del tree["data"][key]
        for selection in ("source_images", "target_shapes"):
            del tree["data"][selection]["root"]  # where it lies; the fingerprint says what it is
        for key in _EXECUTION_ONLY:
            del tree["training"][key]
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


_EXECUTION_ONLY = (
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "loader_workers",
    "cache",
    "threads",
    "timeout_seconds",
)


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run description and apply ``key=value`` overrides with dots (``training.steps=50``).

    Raises:
        ConfigError: the file is missing or not YAML, an override is malformed, a key is unknown
            (with the nearest match) or a value does not fit.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; configs/ holds ready ones") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give a YAML file inside it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        reason = " ".join(str(err).split())
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path}: expected sections (method, data, ...), found {type(tree).__name__}"
        )
    for override in overrides:
        _apply(tree, override)
    return parse_config(tree, where=str(path))


def parse_config(tree: Mapping[str, Any], *, where: str = "config") -> RunConfig:
    """Validate a nested dictionary; the errors are those of :func:`load_config`."""
    tree = dict(tree)
    method = tree.get("method")
    if isinstance(method, str):
        method = {"name": method}
    if not isinstance(method, dict) or "name" not in method:
        raise ConfigError(f"{where}: method.name is missing; one of {', '.join(METHODS)}")
    name = str(method["name"])
    if name not in METHODS:
        raise ConfigError(f"{where}: unknown method '{name}'{nearest(name, METHODS)}")
    options = {k: v for k, v in method.items() if k != "name"}
    if isinstance(tree.get("data"), dict):
        tree["data"] = _with_default_selections(tree["data"])
    cls = METHODS[name].Config
    parsed = _validate(cls, options, where=where, prefix="method.")
    return _validate(RunConfig, {**tree, "method": parsed, "method_name": name}, where=where)


def _with_default_selections(data: Mapping[str, Any]) -> dict[str, Any]:
    """``data.queries.split=val`` alone keeps the default stream of the queries."""
    merged = dict(data)
    for name, info in DataConfig.model_fields.items():
        if isinstance(info.default, Selection) and isinstance(data.get(name), dict):
            merged[name] = {**info.default.model_dump(), **data[name]}
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"'{override}': overrides look like section.key=value, e.g. training.steps=50"
        )
    value: Any = text
    with contextlib.suppress(yaml.YAMLError):
        value = yaml.safe_load(text)
    *parents, leaf = key.strip().split(".")
    if not parents and isinstance(tree.get(leaf), dict) and not isinstance(value, dict):
        parents, leaf = [leaf], "name"  # method=dann
    if not parents and leaf not in RunConfig.model_fields:
        parents, leaf = _section_of(leaf), leaf
    node = tree
    for parent in parents:
        child = node.get(parent)
        if isinstance(child, str) and parent == "method":
            child = {"name": child}
        inner: dict[str, Any] = dict(child) if isinstance(child, dict) else {}
        node[parent] = inner
        node = inner
    node[leaf] = value


def _section_of(leaf: str) -> list[str]:
    """``steps=50`` may stand for ``training.steps=50`` when only one section has such a key."""
    owners = [s for s, m in _sections(RunConfig).items() if leaf in m.model_fields]
    return owners if len(owners) == 1 else []


def _sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = {}
    for name, info in model.model_fields.items():
        kind = info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name != "method":
            found[name] = kind
    return found


def _validate(model: type[Any], values: Mapping[str, Any], *, where: str, prefix: str = "") -> Any:
    try:
        return model(**values)
    except ValidationError as err:
        raise ConfigError(f"{where}: {_explain(model, err.errors()[0], prefix)}") from None
    except TypeError as err:
        raise ConfigError(f"{where}: {err}") from None


def _explain(model: type[BaseModel], error: Any, prefix: str) -> str:
    path = [str(p) for p in error["loc"]]
    name = prefix + ".".join(path)
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        fields = _field_names(model, path[:-1])
        return f"unknown key '{name}'{nearest(path[-1], fields)}"
    given = error.get("input")
    shown = "" if isinstance(given, dict) else f" (given: {given!r})"
    return f"{name}: {error['msg']}{shown}"


def _field_names(model: Any, path: list[str]) -> list[str]:
    for part in path:
        info = getattr(model, "model_fields", {}).get(part)
        kinds = [] if info is None else [info.annotation, *getattr(info.annotation, "__args__", ())]
        known = [
            k for k in kinds if hasattr(k, "model_fields") or hasattr(k, "__dataclass_fields__")
        ]
        if known:
            model = known[0]
    fields = getattr(model, "model_fields", None) or getattr(model, "__dataclass_fields__", {})
    return [f for f in fields if f != "method_name"]


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error message about an unknown ``name``: the nearest known one, or all of them."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
