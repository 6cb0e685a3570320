"""The run description as the pods read it, and the command that they run.

A command names paths by two variables: IMG2SHAPE_CONFIG is the description, and IMG2SHAPE_STORAGE
the volume, which becomes the working directory. So a relative path of data or runs is a place on
the volume, on every node. A command has only these variables and plain words, since KubeRay pastes
it into a shell script.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from cluster.kubernetes.options import Options
from cluster.sweeps import load_sweep
from dataio.shards import is_remote, normal
from trainer.config import ConfigError, RunConfig, load_config, parse_override, read_yaml
from trainer.methods import METHODS
from trainer.sections import STREAM_NAMES, MonitoringConfig

CONFIG_FILE = "config.yaml"
_MOST_BYTES = 1 << 20  # that a ConfigMap holds
_METRICS_PORT = MonitoringConfig().port
_ALL_ADDRESSES = "0.0.0.0"  # a scrape comes from another pod; a NetworkPolicy says from which
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\",\]}]+")


@dataclass(frozen=True)
class Description:
    """Files of the ConfigMap by name, and what the pods need for them.

    Attributes:
        metrics_port: where the exporter of the run listens.
        ports: TCP ports of the servers outside the cluster that the pods read from.
    """

    files: Mapping[str, str]
    metrics_port: int
    ports: tuple[int, ...]


def is_sweep(path: Path) -> bool:
    """Whether a file describes a sweep, not a run."""
    return "axes" in read_yaml(path, ready="configs/", expected="sections (method, data, ...)")


def entrypoint(options: Options) -> str:
    """The command of a job."""
    commands = {
        "train": f'train "$IMG2SHAPE_CONFIG" --workers {options.size.workers} '
        f"--out runs/{options.run}",
        # A retry of the whole job tries the failed cells again.
        "sweep": 'sweep "$IMG2SHAPE_CONFIG" --store runs/sweeps --resume',
        "eval": f"eval {shlex.quote(f'runs/{options.run}')} --workers {options.size.workers.most}",
    }
    return f'env --chdir="$IMG2SHAPE_STORAGE" img2shape {commands[options.job]}'


def read_run(
    path: Path, overrides: Sequence[str], *, bucket: str | None, monitoring: bool
) -> Description:
    """The description of a run, with its data where the pods find them.

    Raises:
        ConfigError: as :func:`trainer.config.load_config`; a path that only this machine has;
            credentials in a URL, which everyone who may see the ConfigMap could read.
    """
    config = _with_data_roots(load_config(path, overrides), bucket=bucket, where=str(path))
    port = config.monitoring.port or _METRICS_PORT
    if monitoring:
        section = config.monitoring.model_copy(update={"host": _ALL_ADDRESSES, "port": port})
        config = config.model_copy(update={"monitoring": section})
    for key, value in (
        ("training.init_from", config.training.init_from),
        *((f"network.{key}", str(file)) for key, file in config.network.weights_files.items()),
    ):
        if value is not None and os.path.isabs(value):
            raise ConfigError(f"{path}: {key}: {_not_absolute(value)}")
    text = config.to_yaml()
    downloads = (443,) if config.network.downloads else ()
    ports = {*_ports(text, where=str(path)), *downloads}
    return Description(_checked({CONFIG_FILE: text}, where=path), port, tuple(sorted(ports)))


def read_sweep(
    path: Path, overrides: Sequence[str], *, bucket: str | None, monitoring: bool
) -> Description:
    """A sweep file with ``overrides`` added to its ``set``, and the descriptions that it names.

    Raises:
        ConfigError: as :func:`cluster.sweeps.description.load_sweep`; a description is missing;
            a bucket, since only the data of single runs can be moved there.
    """
    if bucket is not None:
        raise ConfigError(
            f"--storage {bucket}: a sweep names its data itself; write {bucket}/... into {path}, "
            "as data.root below set, and leave the bucket out"
        )
    sweep = load_sweep(path)
    tree = read_yaml(path, ready="configs/sweeps/", expected="keys (config, axes, ...)")
    listening = {"monitoring.host": _ALL_ADDRESSES, "monitoring.port": _METRICS_PORT}
    tree = {
        "name": sweep.name,
        **tree,
        "set": {
            **(listening if monitoring else {}),
            **sweep.set,
            **dict(map(parse_override, overrides)),
        },
    }
    found = _named(sweep.config, tree, where=path)
    files = {_flat(file, sweep.config): file.read_text() for file in found}
    tree["config"] = _flat(Path(sweep.config), sweep.config)
    if CONFIG_FILE in files:
        raise ConfigError(f"{path}: config: {CONFIG_FILE} is the sweep file's own name; rename it")
    text = yaml.safe_dump(tree, sort_keys=False, width=100)
    files = {CONFIG_FILE: text, **files}
    ports = {port for part in files.values() for port in _ports(part, where=str(path))}
    if re.search(r"\bimagenet\b", "".join(files.values())):
        ports.add(443)
    port = tree["set"].get("monitoring.port") or _METRICS_PORT
    return Description(_checked(files, where=path), port, tuple(sorted(ports)))


def _with_data_roots(config: RunConfig, *, bucket: str | None, where: str) -> RunConfig:
    """``config`` with relative data roots below the bucket, if there is one."""

    def moved(root: str, key: str) -> str:
        if is_remote(root):
            return root
        root = normal(root)
        if os.path.isabs(root) or ".." in Path(root).parts:
            raise ConfigError(f"{where}: {key}: {_not_absolute(root)}")
        return f"{bucket}/{root}" if bucket is not None else root

    changed: dict[str, Any] = {"root": moved(config.data.root, "data.root")}
    for name in (*STREAM_NAMES, "queries", "gallery"):
        selection = getattr(config.data, name)
        if selection is None or selection.root is None:
            continue
        key, root = f"data.{name}.root", selection.root
        roots = moved(root, key) if isinstance(root, str) else tuple(moved(r, key) for r in root)
        changed[name] = selection.model_copy(update={"root": roots})
    return config.model_copy(update={"data": config.data.model_copy(update=changed)})


def _not_absolute(path: str) -> str:
    return (
        f"'{path}' is a path of this machine; give one relative to the volume (data/mine) or a URL"
    )


def _named(pattern: str, tree: Mapping[str, Any], *, where: Path) -> list[Path]:
    """The run descriptions of a sweep: ``pattern`` for each method that the sweep names."""
    if "{method}" not in pattern:
        chosen = [Path(pattern)]
    else:
        named = set(_texts([tree.get("axes"), tree.get("set")])) & METHODS.keys()
        chosen = [Path(pattern.replace("{method}", name)) for name in sorted(named or METHODS)]
    found = [path for path in chosen if path.is_file()]
    if not found:
        raise ConfigError(f"{where}: config: {chosen[0]}: no such file; give a path that is there")
    return found


def _flat(file: Path, pattern: str) -> str:
    """The file's name in the ConfigMap: its path from the first part that has the method on."""
    parts = Path(pattern).parts
    differing = (i for i, part in enumerate(parts) if "{method}" in part)
    return "-".join(file.parts[next(differing, len(parts) - 1) :])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts([key, inner])
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _ports(text: str, *, where: str) -> Iterator[int]:
    """Ports of the servers whose URLs are in ``text``; buckets answer on 443."""
    for url in _URL.findall(text):
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query:
            raise ConfigError(
                f"{where}: {parts.scheme}://...{parts.path}: a URL with credentials would be "
                "readable in the ConfigMap; put them into a Secret and name it with --secret"
            )
        yield parts.port or (80 if parts.scheme == "http" else 443)


def _checked(files: Mapping[str, str], *, where: Path) -> Mapping[str, str]:
    size_bytes = sum(len(text.encode()) for text in files.values())
    if size_bytes > _MOST_BYTES:
        raise ConfigError(
            f"{where}: {size_bytes} bytes of descriptions, and a ConfigMap holds {_MOST_BYTES}; "
            "split the sweep"
        )
    for name in files:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ConfigError(
                f"{where}: config: '{name}' is no key of a ConfigMap; rename the file"
            )
    return files
