"""The description of one run: typed, validated, every field documented.

A run is a YAML file plus ``key=value`` overrides. Unknown keys are refused with the nearest match.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, SerializeAsAny, ValidationError, field_validator

from dataio.names import nearest
from trainer.choosing import criterion_refusal
from trainer.errors import ConfigError
from trainer.methods import METHODS, Method, MethodConfig
from trainer.networks import TWO_TRUNK_KEYS, NetworkConfig
from trainer.sections import (
    STREAM_NAMES,
    DataConfig,
    EvaluationConfig,
    MonitoringConfig,
    OptimizerConfig,
    Section,
    Selection,
    StrategyConfig,
    TrainingConfig,
    ValidationConfig,
)
from trainer.shipped import RUNS, find_config
from trainer.transfer_pairs import Transfer


class RunConfig(Section):
    """One training run."""

    method: SerializeAsAny[MethodConfig]
    method_name: str
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    strategy: StrategyConfig = StrategyConfig()
    validation: ValidationConfig = ValidationConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    monitoring: MonitoringConfig = MonitoringConfig()

    @field_validator("method", mode="before")
    @classmethod
    def _keep_method(cls, value: Any) -> Any:
        assert isinstance(value, MethodConfig), "built by parse_config"
        return value

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary in the form of the YAML file; ``parse_config`` reads it back."""
        tree = self.model_dump(mode="json", exclude={"method_name"})
        tree["method"] = {"name": self.method_name, **tree["method"]}
        return {"method": tree.pop("method"), **tree}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_dict(), sort_keys=False, width=100)

    @property
    def identity(self) -> str:
        """Hash (12 hex digits) of everything that shapes the trained weights.

        How a run is executed (strategy, loader workers, threads, logging, checkpoints, monitoring)
        is left out, and so are the queries, the gallery and the scoring.
        """
        tree = self.to_dict()
        for section in ("strategy", "validation", "evaluation", "monitoring"):
            del tree[section]
        if tree["optimizer"]["accumulate"] == 1:  # as in runs from before this option
            del tree["optimizer"]["accumulate"]
        if tree["data"]["dataset"] is None:  # as runs from before the name came from the data
            tree["data"]["dataset"] = "procedural"
        for key in ("root", "queries", "gallery"):
            del tree["data"][key]
        for stream in METHODS[self.method_name].streams:
            del tree["data"][stream]["root"]  # the fingerprint says which data they are
        for key in _EXECUTION_ONLY:
            del tree["training"][key]
        _forget_trunk_defaults(tree)
        return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


_TRANSFER = "transfer."  # a section that is translated to values of section data
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
_EXECUTION_ONLY = (
    "log_every",
    "checkpoint_every",
    "keep_last",
    "keep_best",
    "async_checkpoints",
    "loader_workers",
    "cache",
    "cache_bytes",
    "feature_store",
    "threads",
    "timeout_seconds",
    "watchdog_seconds",
    "max_failures",
)


def _forget_trunk_defaults(tree: dict[str, Any]) -> None:
    """Take out what runs from before these options have not."""
    network = tree["network"]
    if "lora" not in (network["train"], network["shape_train"]):
        del network["lora"]
    for key, default in _TRUNK_DEFAULTS.items():
        if network[key] == default:
            del network[key]
    if tree["training"]["feature_copies"] == 0:
        del tree["training"]["feature_copies"]


_TRUNK_DEFAULTS = {
    "preprocessing": None,
    "pool_tokens": None,
    "train": "all",
    **dict.fromkeys(TWO_TRUNK_KEYS),
}


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a run description and apply ``key=value`` overrides with dots (``training.steps=50``).

    Args:
        path: a file, or the name of a shipped description (``astn``, ``own/astn``).

    Raises:
        ConfigError: the file is missing or not YAML, an override is malformed, a key is unknown
            (with the nearest match) or a value does not fit.
    """
    tree = read_yaml(path, ready=RUNS, expected="sections (method, data, ...)")
    return parse_config(overridden(tree, overrides), where=str(path))


def overridden(tree: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """``tree``, a run description, changed in place by ``key=value`` overrides.

    Raises:
        ConfigError: one of them has another form.
    """
    for override in overrides:
        _apply(tree, override)
    return tree


class _OnceEach(yaml.SafeLoader):
    """Safe YAML whose mappings have each key once; YAML's own reader keeps the last of two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [key for key, count in Counter(keys).items() if count > 1 and key != "<<"]
        if twice:
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"'{twice[0]}' stands twice from line {line} on; keep one of them")
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path, *, ready: str, expected: str) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Args:
        path: a file, or the name of one in ``ready`` (:func:`trainer.shipped.find_config`).
        ready: folder of the shipped files of this kind.
        expected: what its keys are, for the messages.

    Raises:
        ConfigError: it is missing, not YAML, has no keys, or one of them twice.
    """
    path = find_config(path, ready)
    try:
        tree = _OnceEach(path.read_text()).get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        reason = " ".join(str(err).split())
        raise ConfigError(f"{path}: not readable as YAML: {reason}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected {expected}, found {type(tree).__name__}")
    return tree


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
    cls = METHODS[name]
    for section, values in cls.defaults.items():
        if isinstance(tree.get(section, {}), dict):
            tree[section] = {**values, **tree.get(section, {})}
    if "transfer" in tree:
        pair = validated(Transfer, _section(tree, "transfer", where), where=where, prefix=_TRANSFER)
        tree["data"] = _merged(pair.data(cls.streams), _section(tree, "data", where))
        del tree["transfer"]
    if isinstance(tree.get("data", {}), dict):
        tree["data"] = _with_default_selections(tree.get("data", {}), cls)
    parsed = validated(cls.Config, options, where=where, prefix="method.")
    run = validated(RunConfig, {**tree, "method": parsed, "method_name": name}, where=where)
    _require_something_to_do(run, where=where)
    _require_usable_streams(run, where=where)
    _require_validation_with_checkpoints(run, where=where)
    _require_usable_criterion(run, where=where)
    _require_two_trunks(run, where=where)
    return _with_balanced_batch(run, tree, where=where) if cls.balanced else run


def _require_two_trunks(run: RunConfig, *, where: str) -> None:
    """Refuse what concerns one of two trunks in a method that has one."""
    said = [key for key in TWO_TRUNK_KEYS if getattr(run.network, key) is not None]
    if not said or METHODS[run.method_name].two_trunks:
        return
    common = said[0].partition("_")[2]
    two = ", ".join(name for name, method in METHODS.items() if method.two_trunks)
    raise ConfigError(
        f"{where}: network.{said[0]}: {run.method_name} has one trunk for images and shapes; set "
        f"network.{common}, or take a method with two ({two})"
    )


def _section(tree: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    section = tree.get(name, {})
    if not isinstance(section, dict):
        raise ConfigError(f"{where}: {name}: expected keys and values, found {section!r}")
    return section


def _merged(base: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``above`` over ``base``, selections key by key."""
    merged = {**base, **above}
    for name in base.keys() & above.keys():
        if isinstance(base[name], dict) and isinstance(above[name], dict):
            merged[name] = {**base[name], **above[name]}
    return merged


def _with_default_selections(data: Mapping[str, Any], method: type[Method]) -> dict[str, Any]:
    """``data.queries.split=val`` alone keeps the default stream of the queries."""
    merged, defaults = dict(data), {}
    for name in STREAM_NAMES:
        if name in method.streams or data.get(name) is not None:
            modality = "shape" if name.endswith("shapes") else "image"
            defaults[name] = {"stream": modality, "split": "train"}
    for name, info in DataConfig.model_fields.items():
        if isinstance(info.default, Selection):
            defaults[name] = info.default.model_dump()
    for name, default in defaults.items():
        given = data.get(name)
        if given is None or isinstance(given, dict):
            merged[name] = {**default, **(given or {})}
    return merged


def _require_something_to_do(run: RunConfig, *, where: str) -> None:
    name, steps, train = run.method_name, run.training.steps, run.network.train
    if METHODS[name].trains:
        if steps == 0 and run.training.init_from is None:
            raise ConfigError(
                f"{where}: training.steps: 0 trains nothing; set init_from, or at least one step"
            )
        return
    if steps > 0:
        raise ConfigError(
            f"{where}: training.steps: {name} trains nothing; leave training.steps out"
        )
    if train != "head":
        raise ConfigError(
            f"{where}: network.train: {name} trains nothing, so '{train}' of the trunk cannot be "
            "trained; leave network.train out"
        )


def _require_usable_streams(run: RunConfig, *, where: str) -> None:
    needs = METHODS[run.method_name].streams
    for name in STREAM_NAMES:
        selection: Selection | None = getattr(run.data, name)
        if selection is None:
            continue
        if name not in needs:
            raise ConfigError(f"{where}: data.{name}: {_needed(run.method_name)}; leave it out")
        modality = "shape" if selection.stream == "shape" else "image"
        if modality != needs[name].modality:
            raise ConfigError(
                f"{where}: data.{name}.stream: '{selection.stream}' are {modality}s, but "
                f"{_needed(run.method_name)}"
            )


def _require_validation_with_checkpoints(run: RunConfig, *, where: str) -> None:
    every, saved = run.validation.every, run.training.checkpoint_every
    if every is not None and every % saved:
        raise ConfigError(
            f"{where}: validation.every: {every} is no multiple of training.checkpoint_every="
            f"{saved}; scores choose among checkpoints, so take {-(-every // saved) * saved}, or "
            f"set training.checkpoint_every={every} too"
        )


def _require_usable_criterion(run: RunConfig, *, where: str) -> None:
    criterion = run.validation.criterion
    refusal = None if criterion is None else criterion_refusal(run.method_name, criterion)
    if refusal is not None:
        raise ConfigError(f"{where}: validation.criterion: {refusal}")


def _needed(method: str) -> str:
    """``dann trains on labelled images (source_images) and unlabelled shapes (target_shapes)``."""
    needs = [
        f"{'labelled' if need.labelled else 'unlabelled'} {need.modality}s ({name})"
        for name, need in METHODS[method].streams.items()
    ]
    listed = needs[0] if len(needs) == 1 else f"{', '.join(needs[:-1])} and {needs[-1]}"
    return f"{method} trains on {listed}"


def _with_balanced_batch(run: RunConfig, tree: Mapping[str, Any], *, where: str) -> RunConfig:
    rows = run.method.classes_per_batch * run.method.samples_per_class  # pyright: ignore[reportAttributeAccessIssue]
    given = tree.get("training", {}).get("batch", rows)
    if given != rows:
        raise ConfigError(
            f"{where}: training.batch: {run.method_name} draws method.classes_per_batch x "
            f"method.samples_per_class = {rows} rows, not {given}; leave training.batch out"
        )
    return run.model_copy(update={"training": run.training.model_copy(update={"batch": rows})})


def parse_override(override: str) -> tuple[str, Any]:
    """Key and typed value of ``key=value``.

    Raises:
        ConfigError: it is not of this form.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(
            f"'{override}': overrides look like section.key=value, e.g. training.steps=50"
        )
    value: Any = text
    with contextlib.suppress(yaml.YAMLError):
        value = yaml.safe_load(text)
    return key.strip(), value


def _apply(tree: dict[str, Any], override: str) -> None:
    key, value = parse_override(override)
    *parents, leaf = key.split(".")
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


def validated(model: type[Any], values: Mapping[str, Any], *, where: str, prefix: str = "") -> Any:
    """``model`` with ``values`` that a file ``where`` gives under the keys ``prefix``.

    Raises:
        ConfigError: a key is unknown (with the nearest match), or a value does not fit.
    """
    try:
        return model(**values)
    except ValidationError as err:
        found = err.errors()
        unknown = (e for e in found if e["type"] in UNKNOWN)  # a missing key may be misspelt
        first = next(unknown, found[0])
        raise ConfigError(f"{where}: {_explain(model, first, prefix)}") from None
    except TypeError as err:
        raise ConfigError(f"{where}: {err}") from None


def _explain(model: type[BaseModel], error: Any, prefix: str) -> str:
    path = [str(p) for p in error["loc"]]
    name = prefix + ".".join(path)
    if error["type"] in UNKNOWN:
        fields = _field_names(model, path[:-1])
        if model is RunConfig and len(path) == 1:
            fields.append(_TRANSFER.rstrip("."))
        return f"unknown key '{name}'{nearest(path[-1], fields)}"
    if error["type"] == "value_error":  # of several fields of one section; its text names them
        return f"{name.rstrip('.')}.{error['ctx']['error']}".lstrip(".")
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
