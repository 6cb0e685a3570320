"""A manifest for WebDataset tars that other programs wrote; the tars stay as they are.

Keys and suffixes follow webdataset: a member's name is cut at the first dot of its last part,
folders belong to the key, suffixes are lower-cased, `__names__` and hidden files are passed over.
A sample needs

    image, sketch   jpg, jpeg, png or webp: the first of these that it has
    shape           views.jpg (square tiles on top of each other), views.npy (uint8 [V, H, W, C]),
                    or one picture a view: v00.png v01.png .. or 0.jpg 1.jpg ..

and may have a class: cls (a number or a name), else json with "label", "class" or "class_name".

Such a manifest names no instances: no member that all programs write says which object a picture
shows, and the tars of pictures and of shapes are indexed one after the other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from dataio.names import nearest, one_form
from dataio.packing.foreign_tar import ForeignSample, TarIndex, scan_tar
from dataio.parallel import OrderedMap, in_threads
from dataio.records import SPLITS, STREAMS, DataError
from dataio.shards import MANIFEST_NAME, Manifest, Shard, load_manifest, union, write_manifest


def index(
    root: Path,
    *,
    stream: str,
    split: str,
    tars: Sequence[str] = ("*.tar",),
    class_names: Path | None = None,
    name: str | None = None,
    add: bool = False,
    run: OrderedMap | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write `manifest.parquet` into `root` for the tars there.

    Every byte is read once or twice, for the hashes; no picture is decoded. The manifest keeps the
    place of each sample's pixels and its label; other members are left to webdataset. Where two
    tars use one key, or the manifest that is there does, each new key gets its tar's name in front.

    Args:
        root: folder of the tars.
        stream, split: what the tars hold.
        tars: name patterns relative to `root`, such as `train/*.tar`.
        class_names: text file; line k + 1 names class k. Without it a sample's class is the first
            name it gives, else its number as text.
        name: of the data set; None = the folder's name.
        add: unite with the manifest that is there, classes by name.
        run: spreads the tars over threads or processes; the result does not depend on it.
        progress: called with (tars read, tars in all).

    Raises:
        DataError: no such tars, one that is not plain or is damaged (named, with the sample), a
            label without a name, or a manifest that is there already.
    """
    _check_kind(stream, split)
    held = _held(root, name=name, add=add)
    paths = _tars(root, tars)
    listed = {shard.name for shard in held.shards} if held else set()
    for path in paths:
        if path.relative_to(root).as_posix() in listed:
            raise DataError(f"{path}: is in the manifest already; leave it out with --tar")
    names = None if class_names is None else _class_names(class_names)
    indexes: list[TarIndex] = []
    results = (run or in_threads())(partial(scan_tar, shape=stream == "shape"), paths)
    for result in results:
        indexes.append(result)
        if progress is not None:
            progress(len(indexes), len(paths))
    tars_read = list(zip(paths, indexes, strict=True))
    made = _manifest(root, stream, split, tars_read, names)
    whole = _united(held, made, name=name or root.absolute().name)
    write_manifest(whole)
    return whole


def _check_kind(stream: str, split: str) -> None:
    for option, value, known in (("stream", stream, STREAMS), ("split", split, SPLITS)):
        if value not in known:
            raise DataError(f"--{option} {value!r} is not one of {', '.join(known)}")


def _held(root: Path, *, name: str | None, add: bool) -> Manifest | None:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; give the folder of the tars")
    if not (root / MANIFEST_NAME).exists():
        return None
    if not add:
        raise DataError(
            f"{root}: already has a {MANIFEST_NAME}; pass --add to add to it, or delete it"
        )
    held = load_manifest(root, quarantined=False)
    known = held.metadata.get("dataset")
    if name not in (None, known):
        raise DataError(f"{root}: the data set there is {known!r}; leave --name out")
    return held


def _tars(root: Path, patterns: Sequence[str]) -> list[Path]:
    chosen: set[Path] = set()
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise DataError(f"--tar {pattern!r}: must be relative to {root} and stay inside")
        paths = [path for path in root.glob(pattern) if not _is_hidden(path, root)]
        if not paths:
            from dataio.datasets import found  # imports mesh libraries that packing does without

            raise DataError(f"{root}: no file matches {pattern!r}. Found: {found(root)}.")
        chosen.update(paths)
    for path in chosen:
        if not path.resolve().is_relative_to(root.resolve()):
            raise DataError(f"{path}: is a link out of the folder; copy the tar instead")
    return sorted(chosen)


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _class_names(path: Path) -> list[str]:
    try:
        lines = path.read_text("utf-8").rstrip().split("\n")
        names = [one_form(line.strip()) for line in lines]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot read the class names ({error})") from error
    for number, name in enumerate(names, 1):
        first = names.index(name) + 1
        if not name or first != number:
            problem = f"repeats line {first}" if name else "is empty"
            raise DataError(f"{path}: line {number} {problem}; every line names one class")
    return names


def _manifest(
    root: Path,
    stream: str,
    split: str,
    indexes: list[tuple[Path, TarIndex]],
    names: list[str] | None,
) -> Manifest:
    """The manifest of the new tars alone."""
    used = [(path, tar) for path, tar in indexes if tar.samples]
    samples = [(path, sample) for path, tar in used for sample in tar.samples]
    if not samples:
        raise DataError(f"{root}: not one sample in {len(indexes)} tars; choose others with --tar")
    labels = np.empty(len(samples), dtype=object)
    labels[:] = [_label(path, sample, names) for path, sample in samples]
    classes = tuple(sorted({label for label in labels if label is not None}))
    ids = {None: -1, **{label: i for i, label in enumerate(classes)}}
    shards = tuple(
        Shard(path.relative_to(root).as_posix(), tar.sha256, tar.size_bytes, len(tar.samples))
        for path, tar in used
    )
    return Manifest(
        root=str(root),
        keys=[sample.key for _, sample in samples],
        streams=np.full(len(samples), stream),
        splits=np.full(len(samples), split),
        labels=labels,
        class_ids=np.array([ids[label] for label in labels], dtype=np.int64),
        shard_ids=np.repeat(np.arange(len(used)), [len(tar.samples) for _, tar in used]),
        members=[(sample.content,) for _, sample in samples],
        content_sha256=[sample.sha256 for _, sample in samples],
        views=np.array([sample.views for _, sample in samples], dtype=np.int64),
        shards=shards,
        classes=classes,
        metadata={
            "creator": "img2shape data index",
            "indexed": [{"stream": stream, "split": split, "samples": len(samples)}],
            "versions": {"webdataset": version("webdataset")},
        },
    )


def _label(path: Path, sample: ForeignSample, names: list[str] | None) -> str | None:
    """The class name of a sample from what it says, in the order of preference."""
    said = sample.labels
    if names is None:
        texts = [label for label in said if isinstance(label, str)]
        return str((texts or said)[0]) if said else None
    if not said:
        return None
    label = said[0]
    if isinstance(label, str):
        if label not in names:
            raise DataError(
                f"{path}: sample {sample.key!r} is of class {label!r}, which is not in the class "
                f"names{nearest(label, names)}"
            )
        return label
    if label >= len(names):
        raise DataError(
            f"{path}: sample {sample.key!r} is of class {label}, and there are {len(names)} class "
            "names; add lines to the file"
        )
    return names[label]


def _united(held: Manifest | None, made: Manifest, *, name: str) -> Manifest:
    """The new rows after those that are there, classes by name, every key once."""
    taken = set(held.keys) if held else set()
    keys = made.keys
    if len(set(keys)) < len(keys) or taken & set(keys):
        stems = [shard.name.removesuffix(".tar") for shard in made.shards]
        keys = [f"{stems[i]}/{key}" for i, key in zip(made.shard_ids, keys, strict=True)]
        again = taken & set(keys)
        if again or len(set(keys)) < len(keys):
            raise DataError(f"{made.root}: key {min(again, default=keys[0])!r} is used twice")
    made = dataclasses.replace(
        made, keys=keys, metadata={**made.metadata, "dataset": name}, fingerprint=""
    )
    if held is None:
        return made
    indexed = [*held.metadata.get("indexed", []), *made.metadata["indexed"]]
    return dataclasses.replace(
        union([held, made]),
        root=made.root,
        keys=[*held.keys, *keys],
        shards=(*held.shards, *made.shards),
        metadata={**held.metadata, "indexed": indexed},
        fingerprint="",
    )
