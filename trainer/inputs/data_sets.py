"""The packed data sets of a run, with one label space over all of them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from dataio.records import DataError
from dataio.shards import (
    MANIFEST_NAME,
    ClassMap,
    Manifest,
    exists,
    is_remote,
    load_manifest,
    match_classes,
    read_quarantine,
    renamed,
    shown,
    union,
)
from trainer.config import ConfigError, RunConfig
from trainer.methods import METHODS
from trainer.sections import Selection


def training_selections(config: RunConfig) -> dict[str, Selection]:
    """The selection of each stream that the method trains on."""
    return {name: getattr(config.data, name) for name in METHODS[config.method_name].streams}


def open_data_set(config: RunConfig, selection: Selection) -> Manifest:
    """The data set of ``selection``, its classes named as the run names them.

    Raises:
        DataError: there is no data set, it cannot be read, or it lacks a class that the run needs.
    """
    roots = _roots(config, selection)
    manifest = _united(roots)
    if config.data.classes is None and not config.data.restrict:
        return manifest
    required = "all" if config.data.restrict else "none"
    names = _matched(config, [roots], classes=label_space(config), required=required).names[0]
    return _renamed(roots, tuple(sorted(names.items())))


def label_space(config: RunConfig) -> tuple[str, ...]:
    """The class names in order of their ids: ``data.classes``; else, with ``data.restrict``, the
    classes that all data sets of the run have; else those of the labelled streams, by name.

    Raises:
        DataError: no class list is configured and a data set cannot be read.
    """
    if config.data.classes is not None:
        return config.data.classes
    space = _class_map(config)
    if space is not None:
        return space.classes
    needs = METHODS[config.method_name].streams
    labelled = [s for name, s in training_selections(config).items() if needs[name].labelled]
    return tuple(sorted({c for s in labelled for c in open_data_set(config, s).classes}))


def class_mapping(config: RunConfig) -> dict[str, dict[str, list[str]]] | None:
    """Class -> data set -> the names that stand for it there; None where nothing is matched."""
    space = _class_map(config)
    if space is None:
        return None
    data_sets = _all_roots(config)
    required = "all" if config.data.restrict else "none"
    matched = _matched(config, data_sets, classes=space.classes, required=required)
    return {
        wanted: {
            " + ".join(roots): [old for old, new in own.items() if new == wanted]
            for roots, own in zip(data_sets, matched.names, strict=True)
        }
        for wanted in space.classes
    }


def require_classes(config: RunConfig) -> None:
    """Check that the data sets of training have the classes that the run names.

    Raises ConfigError, with the nearest names, for a class that none of them has (with
    ``data.restrict``: that one of them lacks).
    """
    _class_map(config)


def require_samples(
    config: RunConfig, selection: Selection, *, key: str, name: str, remedy: str
) -> None:
    """Check that ``data.<name>`` has samples of ``selection``, which option ``key`` asks for.

    Raises:
        ConfigError: it has none; the message says in which splits they are, and the ``remedy``.
        DataError: the data set cannot be read.
    """
    manifest = open_data_set(config, selection)
    held = sorted(set(manifest.splits[manifest.streams == selection.stream].tolist()))
    if not held or selection.split not in (*held, "all"):
        raise ConfigError(
            f"{key}: {manifest.root} has no {selection.stream} of split '{selection.split}' for "
            f"data.{name}; it has them in {', '.join(held) or 'no split'}; {remedy}"
        )


def data_fingerprint(config: RunConfig) -> str:
    """Hash of the content of all data sets that the run trains on."""
    selections = training_selections(config).values()
    roots = sorted({_united(_roots(config, s)).fingerprint for s in selections})
    return "+".join(root[:16] for root in roots)


def data_set_name(config: RunConfig) -> str:
    """What tables and reports call the data of a run: ``data.dataset``, else the names that the
    data sets of training were packed under; a folder of one's own is called as it lies on disk.

    Raises:
        DataError: no name is configured and a data set cannot be read.
    """
    if config.data.dataset is not None:
        return config.data.dataset
    names = (_packed_name(_united(roots)) for roots in _training_roots(config))
    return " + ".join(dict.fromkeys(names))


def _packed_name(manifest: Manifest) -> str:
    parts = manifest.metadata.get("union", [manifest.metadata])
    names = [str(part.get("dataset") or "folder") for part in parts]
    if names == ["folder"]:  # the adapter's own name, which says nothing
        return manifest.root.rstrip("/").rsplit("/", 1)[-1]
    return " + ".join(names)


def bad_samples(config: RunConfig) -> int | None:
    """Samples in quarantine in the data sets that the run trains on, all their streams and splits;
    None where a quarantine cannot be read."""
    roots = {root for part in _training_roots(config) for root in part}
    try:
        return sum(len(read_quarantine(root).samples) for root in roots)
    except (DataError, OSError):
        return None


def read_again() -> None:
    """Forget all manifests: a data set that changed on disk is read anew."""
    _united.cache_clear()
    _renamed.cache_clear()


def _roots(config: RunConfig, selection: Selection) -> tuple[str, ...]:
    root = selection.root or config.data.root
    return (root,) if isinstance(root, str) else root


def _training_roots(config: RunConfig) -> list[tuple[str, ...]]:
    selections = training_selections(config).values()
    return list(dict.fromkeys(_roots(config, selection) for selection in selections))


def _all_roots(config: RunConfig) -> list[tuple[str, ...]]:
    """The data sets of training first, then those of queries and gallery, each once."""
    evaluated = (_roots(config, s) for s in (config.data.queries, config.data.gallery))
    return list(dict.fromkeys([*_training_roots(config), *evaluated]))


def _class_map(config: RunConfig) -> ClassMap | None:
    """The label space where the run names or restricts it; None where it is the data sets' own."""
    data = config.data
    if data.classes is None:
        # What all have in common depends on all of them, those of the evaluation included.
        return _matched(config, _all_roots(config), classes=None) if data.restrict else None
    if len(set(data.classes)) < len(data.classes):
        raise ConfigError("data.classes: a class is named twice; name each once")
    required = "all" if data.restrict else "any"
    return _matched(config, _training_roots(config), classes=data.classes, required=required)


def _matched(
    config: RunConfig,
    data_sets: list[tuple[str, ...]],
    *,
    classes: tuple[str, ...] | None,
    required: Literal["all", "any", "none"] = "any",
) -> ClassMap:
    held = {" + ".join(roots): _united(roots).classes for roots in data_sets}
    try:
        return match_classes(held, classes=classes, mapping=config.data.mapping, required=required)
    except DataError as err:
        raise ConfigError(f"data.classes: {err}") from err


@lru_cache(maxsize=8)
def _united(roots: tuple[str, ...]) -> Manifest:
    for root in roots:
        if re.match(r"\w+://[^/]*@", root):
            raise ConfigError(
                f"data.root: {shown(root)}: a user or password in a URL would be kept in the run's "
                "files; put them in ~/.netrc or in the environment"
            )
        if not is_remote(root) and not exists(root, MANIFEST_NAME):
            raise DataError(
                f"{root}: no data set here (no {MANIFEST_NAME}); make one with `img2shape data "
                f"make procedural --out {root}` or `img2shape data pack`, or name yours: "
                "--data FOLDER, which sets data.root=FOLDER"
            )
    return union([load_manifest(root) for root in roots])


@lru_cache(maxsize=8)
def _renamed(roots: tuple[str, ...], names: tuple[tuple[str, str], ...]) -> Manifest:
    return renamed(_united(roots), dict(names))
