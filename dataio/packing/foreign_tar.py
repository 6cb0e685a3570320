"""One WebDataset tar that another program wrote: its samples, from the headers of its members."""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from webdataset.tariterators import base_plus_ext

from dataio.names import one_form
from dataio.records import DataError
from dataio.shards import VIEWS_TAR, Member, is_member_header, member_content, view_number

Label = int | str

_BLOCK = 512
_READ_BYTES = 1 << 20
_MAX_TEXT_BYTES = 1 << 24  # of a cls or json member
_PICTURES = ("jpg", "jpeg", "png", "webp")
_META = re.compile(r"__[^/]*__($|/)")  # as webdataset passes them over


@dataclass(frozen=True)
class ForeignSample:
    """Where a sample's pixels lie, and every label it gives: cls, then those of its json."""

    key: str
    content: Member
    sha256: str  # of the content's bytes as a `ShardReader` gives them
    views: int  # 0 for a single picture
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class TarIndex:
    """All samples of a tar, in its order."""

    samples: tuple[ForeignSample, ...]
    sha256: str
    size_bytes: int


@dataclass
class _Files:
    """The members of one sample by suffix: header's and data's offset, size in bytes."""

    key: str
    places: dict[str, tuple[int, int, int]] = field(default_factory=dict)


def scan_tar(path: Path, *, shape: bool) -> TarIndex:
    """The samples of the tar at `path`, of shapes or of pictures; nothing is unpacked.

    Raises DataError, naming the tar and the sample, for a tar that is compressed, damaged or has
    links, for samples whose members are apart, and for a sample without pixels.
    """
    try:
        with open(path, "rb") as file:
            groups = list(_groups(path, _members(path, file)))
            samples = tuple(_Sample(path, file, files).read(shape=shape) for files in groups)
            file.seek(0)
            digest = hashlib.sha256()
            while part := file.read(_READ_BYTES):
                digest.update(part)
            return TarIndex(samples, digest.hexdigest(), file.tell())
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror}); restore the tar") from error


def _members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Plain files in the tar's order."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            headers: Any = tar
            for info in tar:
                headers.members.clear()  # tarfile would keep every one
                if info.isdir():
                    continue
                if not info.isreg() or info.issparse():
                    raise DataError(
                        f"{path}: member {info.name!r} is a link or no plain file; write the tar "
                        "again with the files themselves"
                    )
                yield info
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(
            f"{path}: not a plain, complete tar ({error}); unpack its compression or copy it again"
        ) from error
    file.seek(end)
    if any(file.read(_BLOCK)):  # tarfile takes a damaged header for the end
        raise DataError(f"{path}: damaged header at byte {end}; copy the tar again")


def _groups(path: Path, members: Iterator[tarfile.TarInfo]) -> Iterator[_Files]:
    """Members of one key together, as webdataset groups them."""
    seen: set[str] = set()
    current: _Files | None = None
    for info in members:
        base = info.name.rpartition("/")[2]
        key, suffix = base_plus_ext(info.name)
        if key is None or suffix is None or base.startswith(".") or _META.match(info.name):
            continue
        if current is None or key != current.key:
            if key in seen:
                raise DataError(
                    f"{path}: members of sample {key!r} are not next to each other; write the tar "
                    "again, sorted by name"
                )
            if current is not None:
                yield current
            seen.add(key)
            current = _Files(key)
        suffix = suffix.lower()
        if suffix in current.places:
            raise DataError(f"{path}: sample {key!r} has .{suffix} twice; write the tar again")
        current.places[suffix] = (info.offset, info.offset_data, info.size)
    if current is not None:
        yield current


class _Sample:
    """One sample in the making."""

    def __init__(self, path: Path, file: BinaryIO, files: _Files) -> None:
        self._path, self._file = path, file
        self._key, self._places = files.key, files.places

    def read(self, *, shape: bool) -> ForeignSample:
        content = self._views_member() if shape else self._first(_PICTURES)
        if content is None:
            wanted = "views.jpg, views.npy, v00.png" if shape else ", ".join(_PICTURES)
            self._refuse_dots(("views.jpg", "views.npy", *_PICTURES) if shape else _PICTURES)
            held = ", ".join(sorted(self._places))
            raise self._error(f"has none of {wanted}, but {held}; choose other tars or --stream")
        data = self._bytes(content)
        views = self._count(content, data) if shape else 0
        digest = hashlib.sha256(data).hexdigest()
        return ForeignSample(self._key, content, digest, views, (*self._cls(), *self._json()))

    def _refuse_dots(self, wanted: tuple[str, ...]) -> None:
        """DataError if a wanted member is only missed because its name has one dot too many."""
        key = self._key.rpartition("/")[2]
        for suffix in self._places:
            meant = next((one for one in wanted if suffix.endswith(f".{one}")), None)
            numbered = view_number(suffix) is not None
            if meant is not None and not (numbered and suffix.startswith("v")):
                views = ", or pass --stream shape if these are a shape's views" if numbered else ""
                raise self._error(
                    f"has a dot in the name before its suffix ({key}.{suffix}): webdataset takes "
                    f"{suffix} for the suffix; rename the members, for example to "
                    f"{key}_{suffix.removesuffix('.' + meant).replace('.', '_')}.{meant}{views}"
                )

    def _first(self, suffixes: tuple[str, ...]) -> Member | None:
        suffix = next((one for one in suffixes if one in self._places), None)
        return None if suffix is None else Member(suffix, *self._places[suffix][1:])

    def _views_member(self) -> Member | None:
        """The member that holds all views, or the stretch of the tar that has one for each."""
        member = self._first(("views.jpg", "views.npy"))
        numbers = self._view_numbers()
        if member is not None or not numbers:
            return member
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            held = ", ".join(map(str, numbers))
            raise self._error(f"has views {held}; there must be no gap and no number twice")
        places = [
            place for suffix, place in self._places.items() if view_number(suffix) is not None
        ]
        start = min(header for header, _, _ in places)
        end = max(data + -(-size // _BLOCK) * _BLOCK for _, data, size in places)
        return Member(VIEWS_TAR, start + _BLOCK, end - start - _BLOCK)

    def _view_numbers(self) -> list[int]:
        return sorted(n for n in map(view_number, self._places) if n is not None)

    def _count(self, content: Member, data: bytes) -> int:
        """How many views the content has, from its first bytes."""
        if content.suffix == VIEWS_TAR:
            return len(self._view_numbers())
        try:
            if content.suffix == "views.npy":
                return len(np.load(io.BytesIO(data), allow_pickle=False))
            with Image.open(io.BytesIO(data)) as picture:
                width, height = picture.size
        except (OSError, ValueError, TypeError) as error:
            raise self._error(f"has no readable {content.suffix} ({error})") from error
        if height % width:
            raise self._error(f"has {width}×{height} pixels, which are not square tiles")
        return height // width

    def _cls(self) -> Iterator[Label]:
        text = self._text("cls").strip()
        if re.fullmatch(r"[+-]?\d+", text):
            yield from self._checked(int(text), "cls")
        elif text:
            yield one_form(text)

    def _json(self) -> Iterator[Label]:
        text = self._text("json")
        try:
            about = json.loads(text) if text else {}
        except (ValueError, RecursionError) as error:
            raise self._error(f"has no readable json ({error})") from error
        for name in ("label", "class", "class_name") if isinstance(about, dict) else ():
            yield from self._checked(about.get(name), f"json {name!r}")

    def _checked(self, label: object, place: str) -> Iterator[Label]:
        """The label; -1, null and an empty name stand for none."""
        if isinstance(label, str):
            label = one_form(label.strip())
        if label in (None, "", -1):
            return
        number = isinstance(label, int) and not isinstance(label, bool) and label >= 0
        if not (number or isinstance(label, str)):
            raise self._error(f"has {place} {label!r}; a class is a name, or a number from 0")
        yield label  # pyright: ignore[reportReturnType]

    def _text(self, suffix: str) -> str:
        member = self._first((suffix,))
        if member is None:
            return ""
        if member.size > _MAX_TEXT_BYTES:
            raise self._error(f"has {member.size} bytes of {suffix}, more than any label needs")
        try:
            return self._bytes(member).decode()
        except UnicodeDecodeError as error:
            raise self._error(f"has {suffix} that is not UTF-8 ({error.reason})") from error

    def _bytes(self, member: Member) -> bytes:
        """What a reader by offset will get; DataError if it would refuse the member."""
        self._file.seek(member.offset - _BLOCK)
        block = self._file.read(_BLOCK + member.size)
        if len(block) < _BLOCK + member.size or not is_member_header(block[:_BLOCK], member):
            raise self._error(
                f"has a .{member.suffix} with a header of another tar format; write the tar again "
                "in the ustar, GNU or PAX format"
            )
        return member_content(block, member)

    def _error(self, problem: str) -> DataError:
        return DataError(f"{self._path}: sample {self._key!r} {problem}")
