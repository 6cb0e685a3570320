"""A record's files to the bytes that go into a shard."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from dataio.records import DataError, Record
from dataio.shards import decode_image, orientation_of, resize, sniff, turned

Render = Callable[[Record], np.ndarray]  # a mesh's views, uint8 [V, H, W] or [V, H, W, C]
Views = Literal["stack", "npy"]

JPEG_QUALITY = 92
# JPEG codes blocks of 8 or 16 pixels; with tiles of a multiple of 16, none crosses two views.
TILE_MULTIPLE = 16

_MAX_JPEG_SIDE = 65500


@dataclass(frozen=True)
class Encoded:
    """The pixel member of a sample: its suffix, its bytes, its number of views (0 = an image)."""

    suffix: str
    content: bytes
    views: int


def encode(
    record: Record, *, image_size: int | None, views: Views, render: Render | None
) -> Encoded:
    """Read and check a record's files and encode them; the arguments are as in `pack`.

    Every picture is decoded once, so a broken one is found here. An image that `crop`, `mask` and
    `image_size` leave as it is keeps the file's own bytes; a changed one is coded anew, JPEG
    (quality 92, full colour resolution) as JPEG and all else as PNG. Raises DataError naming the
    file.
    """
    if record.image is not None:
        return _encode_image(record.image, record, image_size)
    if record.mesh is not None:
        if render is None:
            raise DataError(
                f"{record.mesh}: record {record.key} is a mesh without views; pass render="
            )
        rendered = np.asarray(render(record))
        if rendered.dtype != np.uint8 or rendered.ndim not in (3, 4) or len(rendered) == 0:
            raise DataError(
                f"{record.mesh}: render= gave {rendered.dtype} {rendered.shape}, expected uint8 "
                "[V, H, W] or [V, H, W, C]"
            )
        pictures = [v[:, :, None] if v.ndim == 2 else v for v in rendered]
        return _encode_views(pictures, str(record.mesh), image_size, views)
    if not record.views:
        raise DataError(f"record {record.key} ({record.source_path}) has no views")
    pictures = [decode_image(_read(path), key=str(path)) for path in record.views]
    return _encode_views(pictures, str(record.views[0].parent), image_size, views)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror}); restore the file") from error


def _encode_image(path: Path, record: Record, image_size: int | None) -> Encoded:
    data = _read(path)
    stored = decode_image(data, key=str(path))
    turn = _turn(record, path, data, upright=stored)
    crop = record.crop
    if crop is not None and record.drawn_on is not None:
        crop = _turned_box(crop, record.drawn_on, turn)
    pixels = _cropped(_masked(stored, path, record.mask, turn=turn), crop)
    suffix = {"jpeg": "jpg", "png": "png"}.get(sniff(data) or "")
    shorter = min(pixels.shape[:2])
    if suffix and pixels is stored and (image_size is None or shorter <= image_size):
        return Encoded(suffix, data, 0)
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    if image_size is not None and shorter > image_size:
        width, height = (max(1, round(s * image_size / shorter)) for s in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    if suffix == "jpg":
        return Encoded("jpg", _jpeg(np.atleast_3d(np.asarray(picture))), 0)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return Encoded("png", buffer.getvalue(), 0)


def _turn(record: Record, path: Path, data: bytes, *, upright: np.ndarray) -> int:
    """The EXIF orientation that crop and mask still have to follow; 1 where they are upright.

    Raises DataError, with both sizes, if they were drawn on a picture of another size.
    """
    if record.drawn_on is None or (record.crop is None and record.mask is None):
        return 1
    height, width = upright.shape[:2]
    orientation = orientation_of(data)
    as_stored = (width, height) if orientation < 5 else (height, width)
    if record.drawn_on == as_stored:
        return orientation
    if record.drawn_on == (width, height):
        return 1
    raise DataError(
        "{}: photo {}x{}, its box is for {}x{}; ".format(path, *as_stored, *record.drawn_on)
        + "restore the photo, or pack it whole (crop=none)"
    )


def _turned_box(
    box: tuple[float, float, float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """A box in stored pixels of `size` (width, height), in the upright picture."""
    (x0, y0, x1, y1), (width, height) = box, size
    if orientation in (2, 3, 7, 8):  # left and right change places
        x0, x1 = width - x1, width - x0
    if orientation in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if orientation >= 5 else (x0, y0, x1, y1)


def _masked(pixels: np.ndarray, image: Path, mask: Path | None, *, turn: int) -> np.ndarray:
    """[H, W, C] with white where the mask, once turned, is black; the same array if nowhere."""
    if mask is None:
        return pixels
    shown = turned(decode_image(_read(mask), key=str(mask)), turn)
    if shown.shape[:2] != pixels.shape[:2]:
        sizes = "mask {1}x{0}, image {3}x{2}".format(*shown.shape[:2], *pixels.shape[:2])
        raise DataError(f"{mask}: {sizes} ({image}); replace the mask, or leave it out")
    keep = shown.max(axis=2, keepdims=True) > 0
    return pixels if keep.all() else np.where(keep, pixels, np.uint8(255))


def _cropped(pixels: np.ndarray, crop: tuple[float, float, float, float] | None) -> np.ndarray:
    """[H, W, C] within the box; the same array if the box is all of it, empty or outside."""
    if crop is None or not all(math.isfinite(edge) for edge in crop):
        return pixels
    height, width = pixels.shape[:2]
    left, right = (min(max(round(edge), 0), width) for edge in (crop[0], crop[2]))
    top, bottom = (min(max(round(edge), 0), height) for edge in (crop[1], crop[3]))
    whole = (left, top, right, bottom) == (0, 0, width, height)
    if whole or left >= right or top >= bottom:
        return pixels
    return np.ascontiguousarray(pixels[top:bottom, left:right])


def _encode_views(
    pictures: list[np.ndarray], source: str, image_size: int | None, views: Views
) -> Encoded:
    side = image_size or max(max(p.shape[:2]) for p in pictures)
    if views == "stack":
        side = -(-side // TILE_MULTIPLE) * TILE_MULTIPLE
    tiles = np.stack([resize(p, side) for p in _same_channels(pictures)])
    if views == "npy":
        buffer = io.BytesIO()
        np.save(buffer, tiles, allow_pickle=False)
        return Encoded("views.npy", buffer.getvalue(), len(tiles))
    if len(tiles) * side > _MAX_JPEG_SIDE:
        raise DataError(
            f"{source}: {len(tiles)} views of {side} pixels are too tall for one JPEG; "
            "use a smaller image_size or views='npy'"
        )
    return Encoded("views.jpg", _jpeg(tiles.reshape(-1, *tiles.shape[2:])), len(tiles))


def _same_channels(pictures: list[np.ndarray]) -> list[np.ndarray]:
    """All pictures [H, W, 1] if none has colour, else all [H, W, 3]."""
    if all((p == p[:, :, :1]).all() for p in pictures):
        return [np.ascontiguousarray(p[:, :, :1]) for p in pictures]
    return [np.repeat(p, 3, axis=2) if p.shape[2] == 1 else p for p in pictures]


def _jpeg(pixels: np.ndarray) -> bytes:
    grey = pixels.shape[2] == 1
    return simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels),
        quality=JPEG_QUALITY,
        colorspace="GRAY" if grey else "RGB",
        colorsubsampling="Gray" if grey else "444",
    )
