"""MI3DOR (Song et al., IEEE T-Cybernetics 2021; SHREC'19 monocular track), folder layout.

    image/<split>/<class>/<any name>.{jpg,jpeg,png}
    view/<split>/<class>/<shape>/<shape>_<VVV>.png      VVV = 001..012, sorted by the integer
    model/<split>/<class>/<shape>.obj                   optional, noted in `extra["mesh"]`
    sketch/<split>/<class>/<any name>.png               optional; the built-in benchmark has it

Splits are train and test, and val where there is one. The whole tree is listed and checked before
the first record is handed out; no picture is opened.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dataio.datasets.listing import class_folders, found, is_picture, undoubled, visible
from dataio.records import SPLITS, DataError, Record, slug

__all__ = ["records"]

_log = logging.getLogger(__name__)

_FOLDERS = {"image": "image", "sketch": "sketch", "shape": "view"}
_VIEW_STEM = re.compile(r"(.+)_(\d+)")


def records(
    root: Path,
    *,
    dataset: str = "mi3dor",
    views: int = 12,
    missing_views: Literal["error", "skip", "repeat"] = "error",
    missing_classes: Literal["error", "drop"] = "error",
) -> Iterator[Record]:
    """The records of a MI3DOR tree: images, then sketches, then shapes, each by split and class.

    Keys are `<dataset>-<split>-<class>-<id>` with each part made safe by `slug`; a key that is
    taken gets 8 hex digits of the SHA-1 of its source path appended. Every shape has `views` views
    numbered from 1. A shape with fewer is an error, left out (`skip`) or filled up with the nearest
    view before each gap (`repeat`). A class with queries but no shapes in a split, or the reverse,
    is an error or left out (`drop`).

    Raises DataError at once, naming the folder and the remedy, if the tree is not usable.
    """
    return iter(_Tree(Path(root), dataset, views, missing_views).records(missing_classes))


class _Tree:
    def __init__(self, root: Path, dataset: str, views: int, missing_views: str) -> None:
        self.dataset = dataset
        self.root = self._located(root)
        self.views = views
        self.missing_views = missing_views
        self._keys: set[str] = set()

    def records(self, missing_classes: str) -> list[Record]:
        tree = {stream: self._classes(stream) for stream in _FOLDERS}
        self._match_classes(tree, drop=missing_classes == "drop")
        made: list[Record] = []
        for stream, by_split in tree.items():
            for split, classes in by_split.items():
                for name, folder in classes.items():
                    made += self._class_records(stream, split, name, folder)
        return made

    def _located(self, root: Path) -> Path:
        """The folder that holds image/ (or sketch/) and view/."""
        for candidate in (root, undoubled(root)):
            queries = [candidate / name for name in ("image", "sketch")]
            if (candidate / "view").is_dir() and any(query.is_dir() for query in queries):
                return candidate
        hint = ""
        if root.is_dir():
            inside = [Path(e.path) for e in visible(root, root=root) if e.is_dir()]
            closer = [folder for folder in inside if (folder / "view").is_dir()]
            hint = f" Did you mean {str(closer[0])!r}?" if closer else ""
        raise DataError(
            f"{self.dataset}: no data under {str(root)!r}. Expected image/{{train,test}}/<class>/ "
            f"and view/{{train,test}}/<class>/<shape>/ there. Found: {found(root)}.{hint}"
        )

    def _classes(self, stream: str) -> dict[str, dict[str, Path]]:
        """Class folders of a stream that hold something, by split and canonical class name."""
        folder = undoubled(self.root / _FOLDERS[stream])
        if not folder.is_dir():
            return {}
        by_split: dict[str, dict[str, Path]] = {}
        for split in SPLITS:
            if (folder / split).is_dir():
                every = class_folders(folder / split, root=self.root, dataset=self.dataset)
                by_split[split] = {k: v for k, v in every.items() if visible(v, root=self.root)}
        if not any(by_split.values()):
            raise DataError(
                f"{self.dataset}: no classes under {str(folder)!r}. Expected "
                f"{{train,val,test}}/<class>/ there. Found: {found(folder)}."
            )
        return by_split

    def _match_classes(self, tree: dict[str, dict[str, dict[str, Path]]], *, drop: bool) -> None:
        """Check that queries and shapes of a split are of the same classes; drops in place."""
        shapes = tree["shape"]
        for stream in ("image", "sketch"):
            for split in sorted(tree[stream].keys() & shapes.keys(), key=SPLITS.index):
                queries, gallery = tree[stream][split], shapes[split]
                for name in sorted(queries.keys() ^ gallery.keys()):
                    has, lacks = _FOLDERS[stream], _FOLDERS["shape"]
                    if name in gallery:
                        has, lacks = lacks, has
                    if (
                        stream == "sketch"
                        and name in gallery
                        and name in tree["image"].get(split, {})
                    ):
                        continue  # sketches of some classes only, photos of all: usable
                    message = (
                        f"{self.dataset}: class {name!r} is under {has}/{split} and not under "
                        f"{lacks}/{split}"
                    )
                    if not drop:
                        raise DataError(f"{message}; add it, or pass missing_classes='drop'")
                    _log.warning("%s; dropped", message)
                    for classes in (queries, gallery):
                        classes.pop(name, None)

    def _class_records(self, stream: str, split: str, name: str, folder: Path) -> Iterator[Record]:
        if stream == "shape":
            yield from self._shapes(split, name, folder)
            return
        for entry in visible(folder, root=self.root):
            if not is_picture(entry):
                continue
            file = Path(entry.path)
            source = file.relative_to(self.root).as_posix()
            key = self._key(split, name, file.stem, source)
            yield Record(key, stream, split, name, image=file, source_path=source)

    def _shapes(self, split: str, name: str, folder: Path) -> Iterator[Record]:
        models = self._models(split, folder.name)
        for entry in visible(folder, root=self.root):
            if not entry.is_dir():
                continue
            source = Path(entry.path).relative_to(self.root).as_posix()
            views = self._views(Path(entry.path))
            if views is None:
                continue
            extra = {"mesh": models[entry.name]} if entry.name in models else {}
            key = self._key(split, name, entry.name, source)
            yield Record(key, "shape", split, name, views=views, source_path=source, extra=extra)

    def _models(self, split: str, class_folder: str) -> dict[str, str]:
        """Relative paths of the class's meshes by file stem."""
        folder = self.root / "model" / split / class_folder
        if not folder.is_dir():
            return {}
        listed = (Path(entry.path) for entry in visible(folder, root=self.root))
        return {
            file.stem: file.relative_to(self.root).as_posix()
            for file in listed
            if file.suffix.lower() in (".obj", ".off")
        }

    def _views(self, folder: Path) -> tuple[Path, ...] | None:
        """The views of a shape in ring order; None if it is to be skipped."""
        held: dict[int, Path] = {}
        for entry in visible(folder, root=self.root):
            file = Path(entry.path)
            match = _VIEW_STEM.fullmatch(file.stem)
            if entry.is_dir() or (is_picture(entry) and (not match or match[1] != folder.name)):
                raise DataError(
                    f"{self.dataset}: {entry.name!r} does not belong into shape folder "
                    f"{str(folder)!r}, which holds {folder.name}_001.png and so on; move it out"
                )
            if not match or not is_picture(entry):
                continue
            number = int(match[2])
            if number in held or not 1 <= number <= self.views:
                problem = "a second time" if number in held else f"not of 1..{self.views}"
                raise DataError(
                    f"{self.dataset}: {str(file)!r} is view {number}, {problem}; remove it"
                )
            held[number] = file
        return self._complete(folder.name, held)

    def _complete(self, shape: str, held: dict[int, Path]) -> tuple[Path, ...] | None:
        ring = range(1, self.views + 1)
        gaps = [number for number in ring if number not in held]
        if not gaps:
            return tuple(held[number] for number in ring)
        listed = ", ".join(f"{number:03d}" for number in gaps)
        message = f"shape {shape} has {len(held)} of {self.views} views (missing {listed})"
        if self.missing_views == "error" or (self.missing_views == "repeat" and not held):
            raise DataError(
                f"{self.dataset}: {message}. Re-extract the archive, or pass "
                "missing_views='skip' or 'repeat'."
            )
        _log.warning("%s: %s; %s", self.dataset, message, self.missing_views)
        if self.missing_views == "skip":
            return None
        # The nearest view before the gap, going round the ring from the last to the first.
        before = sorted(held)
        nearest = [max((n for n in before if n <= number), default=before[-1]) for number in ring]
        return tuple(held[number] for number in nearest)

    def _key(self, split: str, label: str, name: str, source: str) -> str:
        key = "-".join((slug(self.dataset), split, slug(label), slug(name)))
        if key in self._keys:
            key = f"{key}-{hashlib.sha1(source.encode()).hexdigest()[:8]}"
        self._keys.add(key)
        return key
