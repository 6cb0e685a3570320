"""What all adapters share: listing folders the same way on every machine, text files, keys."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from dataio.names import canonical_name, nearest, synonyms
from dataio.records import DataError, Split, slug

_PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_LONGEST_KEY = 90  # with the longest suffix of a member a tar header's 100 bytes hold the name
_Unit = TypeVar("_Unit", bound=Hashable)


class Keys:
    """Keys of one data set: unique, stable between runs, of [a-z0-9_-] and at most 90 characters.

    >>> keys = Keys("mi3dor")
    >>> keys.make("test", "bed", "bed_test_0001", source="view/test/bed/bed_test_0001")
    'mi3dor-test-bed-bed_test_0001'
    """

    def __init__(self, dataset: str, *, taken: Iterable[str] = ()) -> None:
        self._dataset = dataset
        self._taken = set(taken)

    def make(self, split: str, label: str | None, item_id: str, *, source: str) -> str:
        """`<dataset>-<split>-<label>-<id>`, each part made safe by `slug`; no label part for None.

        A key that is taken gets 8 hex digits of the SHA-1 of `source`, the relative path of the
        item's file or folder; one that is too long is cut, and gets those of its own SHA-1.
        Raises DataError if the same source comes twice.
        """
        parts = (self._dataset, split, item_id) if label is None else (
            self._dataset, split, label, item_id
        )  # fmt: skip
        key = "-".join(slug(part) for part in parts)
        if len(key) > _LONGEST_KEY:
            key = _digested(key, key)
        if key in self._taken:
            key = _digested(key, source)
        if key in self._taken:
            raise DataError(f"{self._dataset}: {source!r} is listed twice; list it once")
        self._taken.add(key)
        return key


def _digested(key: str, text: str) -> str:
    digest = hashlib.sha1(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{key[: _LONGEST_KEY - 9]}-{digest}"


def hashed_split(item_id: str, *, seed: int, test_share: float) -> Split:
    """The split of an item by the SHA-1 of `seed:item_id`: independent of all other items.

    About `test_share` (0..1) of many items are of the test split, the others of train.
    """
    digest = split_hash(item_id, seed=seed)
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def split_hash(item_id: str, *, seed: int) -> bytes:
    """The SHA-1 of `seed:item_id`, which decides the split of an item."""
    return hashlib.sha1(f"{seed}:{item_id}".encode("utf-8", "surrogateescape")).digest()


def exact_splits(
    classes: Iterable[Mapping[_Unit, int]],
    *,
    test_share: float,
    val_share: float,
    given: Mapping[_Unit, Split] | None = None,
) -> dict[_Unit, Split]:
    """Splits with the nearest whole number to each share in every class.

    A class of n items has round(n test_share) of test and round(n val_share) of val. One of two or
    more has at least one of each split with a share, as far as they go: train first, then test.
    With the units of a class in the order of a hash, those of the lowest hashes are of test and the
    next ones of val, so that items which are added move few others.

    Args:
        classes: of each class its units in the order in which they are chosen, with the number of
            items in each. A unit is of one split, and may be in several classes.
        test_share, val_share: from 0 to 1, at most 1 together.
        given: units whose split is known; they count in their classes.
    """
    chosen: dict[_Unit, Split] = dict(given or {})
    for units in classes:
        left = _wanted(sum(units.values()), test_share=test_share, val_share=val_share)
        for unit in units.keys() & chosen.keys():
            if chosen[unit] in left:
                left[chosen[unit]] -= units[unit]
        for unit, size in units.items():
            if unit not in chosen:
                room: list[Split] = [split for split in left if left[split] >= size]
                chosen[unit] = room[0] if room else "train"
                if room:
                    left[room[0]] -= size
    return chosen


def _wanted(count: int, *, test_share: float, val_share: float) -> dict[Split, int]:
    """How many of `count` items of a class are of test and of val."""
    rest = count
    if 1 - test_share - val_share > 1e-9 and count > 1:
        rest -= 1
    wanted: dict[Split, int] = {}
    shares: dict[Split, float] = {"test": test_share, "val": val_share}
    for split, share in shares.items():
        least = 1 if share > 0 and count > 1 else 0
        wanted[split] = min(rest, max(least, math.floor(count * share + 0.5)))
        rest -= wanted[split]
    return wanted


def kept_classes(
    names: Iterable[str], wanted: Iterable[str] | None, *, dataset: str
) -> frozenset[str]:
    """Those of a data set's canonical class `names` that the option `classes` asks for.

    None asks for all. A class may be wanted by a synonym. Raises DataError for an unknown one.
    """
    known = frozenset(names)
    if wanted is None:
        return known
    kept: set[str] = set()
    for raw in wanted:
        name = canonical_name(raw)
        same = {name} & known or synonyms(name) & known
        if not same:
            raise DataError(
                f"{dataset}: classes: unknown class {raw!r}{nearest(name, sorted(known))}"
            )
        kept |= same
    return frozenset(kept)


def read_text(file: Path, *, dataset: str) -> str:
    """The text of a UTF-8 file, less a byte order mark and with every line end as `\\n`.

    Raises DataError naming the file if it is not there or not such a text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{dataset}: {str(file)!r} is not a UTF-8 text (byte {error.start}); "
            "convert it, or copy the original file again"
        ) from error
    except OSError as error:
        raise DataError(f"{dataset}: cannot read {str(file)!r}: {error.strerror}") from error


def located(root: Path, accepts: Callable[[Path], bool], *, dataset: str, expected: str) -> Path:
    """The folder that `accepts` the data set: `root`, or `root/X` where `X` is root's own name.

    Otherwise raises DataError with what was `expected` there, what was found, and the folder one
    level below that would do.
    """
    for candidate in (root, undoubled(root)):
        if candidate.is_dir() and accepts(candidate):
            return candidate
    inside = visible(root, root=root) if root.is_dir() else []
    closer = [e.path for e in inside if e.is_dir() and accepts(undoubled(Path(e.path)))]
    hint = f" Did you mean {closer[0]!r}?" if closer else ""
    raise DataError(
        f"{dataset}: no data under {str(root)!r}. Expected {expected} there. "
        f"Found: {found(root)}.{hint}"
    )


def visible(folder: Path, *, root: Path) -> list[os.DirEntry[str]]:
    """Entries of a folder sorted by name, less hidden files, system clutter and links that lead
    out of `root`."""
    with os.scandir(folder) as listing:
        kept = [
            entry
            for entry in listing
            if not entry.name.startswith(".")
            and entry.name.casefold() not in _CLUTTER
            and (not entry.is_symlink() or _stays_inside(entry.path, root))
        ]
    return sorted(kept, key=lambda entry: entry.name)


def file_under(root: Path, relative: str) -> Path | None:
    """`root/relative` if that is a file and no link that leads out of `root`, otherwise None."""
    file = root / relative
    return file if file.is_file() and _stays_inside(str(file), root) else None


def is_picture(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a file with a picture's suffix; its content is not looked at."""
    return os.path.splitext(entry.name)[1].lower() in _PICTURE_SUFFIXES and entry.is_file()


def undoubled(folder: Path) -> Path:
    """`X/X` if an archive was unpacked into a folder of its own name, otherwise `X`."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def found(folder: Path, *, limit: int = 6) -> str:
    """The first names in a folder, for an error message."""
    if not folder.is_dir():
        return "no such folder"
    names = sorted(e.name + "/" * e.is_dir() for e in visible(folder, root=folder))
    if not names:
        return "nothing"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def class_folders(folder: Path, *, root: Path, dataset: str) -> dict[str, Path]:
    """Class folders by canonical name, in its order.

    Raises DataError if two folders have one canonical name.
    """
    classes: dict[str, Path] = {}
    for entry in visible(folder, root=root):
        if not entry.is_dir():
            continue
        name = canonical_name(entry.name)
        if name in classes:
            raise DataError(
                f"{dataset}: class folders {classes[name].name!r} and {entry.name!r} in "
                f"{str(folder)!r} are one class {name!r}; rename or merge them"
            )
        classes[name] = Path(entry.path)
    return dict(sorted(classes.items()))


def _stays_inside(path: str, root: Path) -> bool:
    return Path(path).resolve().is_relative_to(root.resolve())
