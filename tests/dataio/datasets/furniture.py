"""Small furniture libraries of Sweet Home 3D, written for the tests."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

CUBE = """\
mtllib cube.mtl
v 0 0 0
v {x} 0 0
v {x} {y} 0
v 0 {y} 0
v 0 0 {z}
v {x} 0 {z}
v {x} {y} {z}
v 0 {y} {z}
usemtl wood
f 1 2 3 4
f 5 6 7 8
f 1 2 6 5
f 2 3 7 6
f 3 4 8 7
f 4 1 5 8
"""


def box(x: float = 1, y: float = 1, z: float = 1) -> bytes:
    """An .obj of a box with these sides."""
    return CUBE.format(x=x, y=y, z=z).encode()


def picture(seed: int) -> bytes:
    """A PNG with alpha, like a library's; another for each seed."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((seed * 37 % 256, seed * 101 % 256, seed // 256, 255), (4, 4, 12, 12))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        for name, content in files.items():
            out.writestr(zipfile.ZipInfo(name, (2020, 2, 2, 2, 2, 2)), content)
    return file.getvalue()


def entry(number: int, name: str, /, **fields: str) -> dict[str, str]:
    """The fields of an entry whose files are `/box/<number>.png` and `.obj`."""
    return {
        "id": f"Lib#piece{number}",
        "name": name,
        "icon": f"/box/{number}.png",
        "model": f"/box/{number}.obj",
        **fields,
    }


def catalogue(entries: Iterable[Mapping[str, str]], **about: str) -> bytes:
    lines = [f"{name}={value}" for name, value in about.items()]
    for number, fields in enumerate(entries, 1):
        lines += [f"{name}#{number}={value}" for name, value in fields.items()]
    return "\n".join(["# made for a test", *lines, ""]).encode("iso-8859-1")


def library(
    file: Path,
    entries: Iterable[Mapping[str, str]],
    *,
    files: Mapping[str, bytes] | None = None,
    without: Iterable[str] = (),
    **about: str,
) -> Path:
    """Write a library. Every entry that names `/box/N` gets a picture and a box of its own.

    `files` come in addition or in their place, those named `without` do not.
    """
    entries = list(entries)
    seed = sum(map(ord, file.stem))
    held = {
        "PluginFurnitureCatalog.properties": catalogue(
            entries, **{"name": file.stem, "license": "CC0", "provider": "a test", **about}
        ),
        "PluginFurnitureCatalog_de.properties": b"name#1=Stuhl\n",
        "box/cube.mtl": b"newmtl wood\nmap_Kd wood.jpg\n",
    }
    for number in range(1, len(entries) + 1):
        held[f"box/{number}.png"] = picture(seed + number)
        held[f"box/{number}.obj"] = box(x=1 + number / 10, z=1 + seed / 1000)
    held |= files or {}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(zipped({n: c for n, c in held.items() if n not in set(without)}))
    return file
