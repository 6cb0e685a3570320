"""One furniture library of Sweet Home 3D: a zip with a catalogue, pictures and meshes.

Pictures and meshes are unpacked into a folder under names made here, never under those in the zip,
and no more of them is read than a picture or a mesh may have.
"""

from __future__ import annotations

import calendar
import hashlib
import io
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from dataio.atomic import write_whole
from dataio.datasets.sh3f_properties import parse_properties
from dataio.records import DataError, slug

CATALOGUE_NAME = "PluginFurnitureCatalog.properties"
# Files that hold all of a mesh; a .gltf needs others beside it.
READ_MESHES = frozenset({".off", ".obj", ".ply", ".stl", ".glb"})

_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp"})
_MOST_CATALOGUE_BYTES = 32 << 20
_MOST_PICTURE_BYTES = 64 << 20
_MOST_MESH_BYTES = 512 << 20
_MOST_BYTES = 16 << 30  # unpacked of one library
_ENTRY_KEY = re.compile(r"([A-Za-z]\w*)#([1-9][0-9]{0,6})")
# What reading a damaged or foreign zip may raise: a wrong CRC or header, cut or bad deflate data,
# an unknown compression, a password, or an offset or a name that makes no sense.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError,
    OSError,
)  # fmt: skip


class UnusableEntry(Exception):
    """An entry of a library cannot be used; the message says why."""


@dataclass(frozen=True)
class Entry:
    """One piece of furniture: its number in the catalogue and its fields by name."""

    number: int
    fields: Mapping[str, str]

    @property
    def entry_id(self) -> str:
        """The id; the number where there is none."""
        return self.fields.get("id") or str(self.number)

    @property
    def name(self) -> str:
        """The name in the catalogue's own language, which is English in all known libraries."""
        return self.fields.get("name", "").strip()

    def rotation(self) -> tuple[float, ...] | None:
        """`modelRotation`: nine numbers, row by row; None if there is none.

        Raises UnusableEntry for anything else than nine finite numbers of a matrix with an inverse.
        """
        text = self.fields.get("modelRotation")
        if not text or not text.strip():
            return None
        try:
            a, b, c, d, e, f, g, h, i = map(float, text.split())
            determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
            if not 1e-9 < abs(determinant) < 1e9:  # False for NaN, too
                raise ValueError
        except ValueError:
            raise UnusableEntry(f"modelRotation={text!r} is no rotation of nine numbers") from None
        return a, b, c, d, e, f, g, h, i


class Library:
    """An opened `.sh3f` file."""

    def __init__(self, file: Path, *, unpack_into: Path, dataset: str) -> None:
        """Read the catalogue.

        Args:
            file: the library.
            unpack_into: pictures and meshes go into a folder in it, named by the file's content.
            dataset: name for messages.

        Raises DataError naming the file: not readable, no zip, or without a catalogue.
        """
        self._unpack_into, self._unpacked_bytes = unpack_into, 0
        self._folder: Path | None = None
        self.file = file
        try:
            self._zip = zipfile.ZipFile(file)
            self._held = {info.filename: info for info in self._zip.infolist()}
            catalogue = _read(self._zip, self._held[CATALOGUE_NAME], _MOST_CATALOGUE_BYTES)
        except KeyError:
            raise DataError(
                f"{dataset}: {str(file)!r} holds no {CATALOGUE_NAME}, so it is no furniture "
                "library of Sweet Home 3D; remove it or restore the file"
            ) from None
        except (*_DAMAGED, UnusableEntry) as error:
            raise DataError(
                f"{dataset}: {str(file)!r} is not a readable library ({error}); copy it again"
            ) from error
        self.fields: dict[str, str] = {}
        entries: dict[int, dict[str, str]] = {}
        for key, value in parse_properties(catalogue).items():
            of_entry = _ENTRY_KEY.fullmatch(key)
            if of_entry:
                entries.setdefault(int(of_entry[2]), {})[of_entry[1]] = value
            else:
                self.fields[key] = value
        self.entries = [
            Entry(number, fields)
            for number, fields in sorted(entries.items())
            if fields.get("ignored", "false").strip().lower() != "true"
        ]

    def __enter__(self) -> Library:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def about(self) -> dict[str, str]:
        """What the library says of itself: id, name, version, license, provider."""
        names = ("id", "name", "version", "license", "provider")
        return {name: self.fields[name] for name in names if self.fields.get(name)}

    def picture(self, entry: Entry) -> Path:
        """The unpacked picture of an entry; raises UnusableEntry, and OSError for a full disk."""
        info = self._member(entry, "icon")
        suffix = PurePosixPath(info.filename).suffix.lower()
        suffix = suffix if suffix in _PICTURES else ".png"  # its content is what counts
        return self._put(entry, self._zip, info, suffix=suffix, most_bytes=_MOST_PICTURE_BYTES)

    def mesh(self, entry: Entry) -> Path | str:
        """The unpacked mesh of an entry, or its format (`.dae`) where that is not read.

        Of a zip the first mesh in it counts. Raises UnusableEntry, and OSError for a full disk.
        """
        info = self._member(entry, "model")
        suffix = PurePosixPath(info.filename).suffix.lower()
        if suffix in READ_MESHES:
            return self._put(entry, self._zip, info, suffix=suffix, most_bytes=_MOST_MESH_BYTES)
        if suffix != ".zip":
            return suffix or "no suffix"
        try:
            content = _read(self._zip, info, _MOST_MESH_BYTES)
            with zipfile.ZipFile(io.BytesIO(content)) as inner:
                held = [i for i in inner.infolist() if not i.is_dir()]
                suffixes = [PurePosixPath(i.filename).suffix.lower() for i in held]
                for within, kind in zip(held, suffixes, strict=True):
                    if kind in READ_MESHES:
                        most = _MOST_MESH_BYTES
                        return self._put(entry, inner, within, suffix=kind, most_bytes=most)
        except (zipfile.BadZipFile, ValueError) as error:
            raise UnusableEntry(f"{info.filename!r} is not a readable zip ({error})") from error
        kinds = [kind for kind in (".dae", ".3ds", ".kmz", ".gltf", ".lws") if kind in suffixes]
        return f".zip of {kinds[0]}" if kinds else ".zip without a mesh"

    def _member(self, entry: Entry, field: str) -> zipfile.ZipInfo:
        """The file in the zip that a field of an entry names, percent-encoded or not."""
        path = entry.fields.get(field, "").strip()
        if not path:
            raise UnusableEntry(f"has no {field}")
        bare = path.lstrip("/")
        info = self._held.get(bare) or self._held.get(unquote(bare))
        if info is None or info.is_dir():
            raise UnusableEntry(f"its {field} {path!r} is not in the library")
        return info

    def _put(
        self,
        entry: Entry,
        held_in: zipfile.ZipFile,
        info: zipfile.ZipInfo,
        *,
        suffix: str,
        most_bytes: int,
    ) -> Path:
        """Unpack one file unless it is there; the same content has the same name and time."""
        if info.file_size > most_bytes:
            raise _too_large(info, most_bytes)
        self._unpacked_bytes += info.file_size
        if self._unpacked_bytes > _MOST_BYTES:
            raise UnusableEntry(f"the library unpacks to more than {_MOST_BYTES >> 30} GiB")
        tail = entry.entry_id.rpartition("#")[2]
        target = self._own_folder() / f"{entry.number:06d}-{slug(tail)[:60]}{suffix}"
        if not _is_unpacked(target, info):
            write_whole(target, _read(held_in, info, most_bytes), durable=False)
        # The time decides whether a sample is packed again; this one survives a new unpacking.
        seconds = calendar.timegm((*info.date_time, 0, 0, 0))
        if target.stat().st_mtime != seconds:
            os.utime(target, (seconds, seconds))
        return target

    def _own_folder(self) -> Path:
        if self._folder is None:
            digest = hashlib.sha256()
            with open(self.file, "rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
            self._folder = self._unpack_into / digest.hexdigest()[:32]
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder


def _read(held_in: zipfile.ZipFile, info: zipfile.ZipInfo, most_bytes: int) -> bytes:
    """A file of a zip; its header is not trusted to tell its size."""
    try:
        with held_in.open(info) as file:
            content = file.read(most_bytes + 1)
    except _DAMAGED as error:
        raise UnusableEntry(f"{info.filename!r} in it is damaged ({error})") from error
    if len(content) > most_bytes:
        raise _too_large(info, most_bytes)
    return content


def _too_large(info: zipfile.ZipInfo, most_bytes: int) -> UnusableEntry:
    return UnusableEntry(f"{info.filename!r} has more than {most_bytes >> 20} MiB")


def _is_unpacked(target: Path, info: zipfile.ZipInfo) -> bool:
    try:
        if target.stat().st_size != info.file_size:
            return False
        return zlib.crc32(target.read_bytes()) == info.CRC
    except FileNotFoundError:
        return False
