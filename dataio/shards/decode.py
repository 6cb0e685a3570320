"""Encoded bytes to uint8 pixels. The format is sniffed from the content, never from a file name."""

from __future__ import annotations

import io
import re
import tarfile
import warnings
from typing import Literal

import numpy as np
import simplejpeg
from PIL import Image

from dataio.records import DataError

Fit = Literal["stretch", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

MAX_PIXELS = 1 << 27  # larger pictures are refused: a few kilobytes can unpack to gigabytes

VIEWS_TAR = "views.tar"  # suffix that stands for the several view members of one sample

_VIEW_SUFFIX = re.compile(r"(?:v|view)?[_-]?(\d{1,4})\.(?:jpe?g|png|webp)", re.IGNORECASE)
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\x93NUMPY", "npy"),
    (b"BM", "bmp"),
    (b"GIF8", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"P5", "ppm"),
    (b"P6", "ppm"),
)
_WHITE = 255  # transparent pictures are laid on white, the ground of the rendered views
_ORIENTATION = 0x0112
_TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def sniff(data: bytes) -> str | None:
    """The format by its first bytes: jpeg, png, npy, webp, bmp, gif, tiff, ppm, or None."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    return "webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def decode_image(
    data: bytes,
    *,
    key: str,
    size: int | None = None,
    fit: Fit = "stretch",
    interpolation: Interpolation = "bilinear",
) -> np.ndarray:
    """Decode one picture to uint8 [H, W, C], C = 1 (grey) or 3 (RGB).

    EXIF orientation is applied, CMYK and palettes become RGB, 16 bits become 8, transparency is
    laid on white. With `size` the result is [size, size, C] (see `resize`); large JPEGs are then
    decoded at a reduced scale, still at least `size` pixels a side.

    Args:
        data: the encoded file.
        key: names the sample in errors.
        size: side of the result in pixels, None = as stored.
        fit: how a picture that is not square becomes square.
        interpolation: of resizing.

    Raises:
        DataError: not a picture, truncated, an unsupported kind, or above MAX_PIXELS.
    """
    kind = sniff(data)
    if kind is None or kind == "npy":
        found = "a numpy array" if kind else "no known picture format"
        raise DataError(f"{key}: {found}, expected one of {', '.join(_FORMATS)}")
    pixels = _decode_jpeg(data, size) if kind == "jpeg" else None
    if pixels is None:
        pixels = _decode_pillow(data, key)
    return pixels if size is None else resize(pixels, size, fit=fit, interpolation=interpolation)


def decode_views(data: bytes, *, key: str, views: int) -> np.ndarray:
    """Decode a shape's views to uint8 [V, H, W, C], C = 1 or 3.

    Args:
        data: a picture of `views` square tiles stacked vertically, a `.npy` array uint8
            [V, H, W, C] or [V, H, W], or a stretch of a tar with a picture for each view (see
            `view_number`), which are stretched to one square size unless they are of one size.
        key: names the sample in errors.
        views: V.

    Raises:
        DataError: undecodable, or not `views` tiles.
    """
    if sniff(data) == "npy":
        return _decode_npy(data, key=key, views=views)
    if data[257:262] == b"ustar" and sniff(data) not in ("jpeg", "png"):
        return _decode_tar(data, key=key, views=views)
    stack = decode_image(data, key=key)
    height, width, channels = stack.shape
    if height != views * width:
        raise DataError(
            f"{key}: {width}×{height} pixels are not {views} square tiles; pack the shape again"
        )
    return stack.reshape(views, width, width, channels)


def view_number(suffix: str) -> int | None:
    """The number in a member suffix such as `v00.png`, `0.jpg`, `view_3.webp`; None for others."""
    match = _VIEW_SUFFIX.fullmatch(suffix)
    return int(match[1]) if match else None


def resize(
    pixels: np.ndarray,
    size: int,
    *,
    fit: Fit = "stretch",
    interpolation: Interpolation = "bilinear",
) -> np.ndarray:
    """Resize uint8 [H, W, C] to [size, size, C] with antialiasing; the same array if it fits.

    `stretch` keeps the whole picture and changes its proportions; `crop` keeps the proportions and
    the centre.
    """
    height, width, _ = pixels.shape
    if (height, width) == (size, size):
        return pixels
    box = (0.0, 0.0, float(width), float(height))
    if fit == "crop":
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    return _resample(pixels, (size, size), box, Image.Resampling[interpolation.upper()])


def _resample(
    pixels: np.ndarray,
    size: tuple[int, int],
    box: tuple[float, float, float, float],
    interpolation: Image.Resampling,
) -> np.ndarray:
    grey = pixels.shape[2] == 1
    picture = Image.fromarray(pixels[:, :, 0] if grey else pixels)
    out = np.asarray(picture.resize(size, interpolation, box=box))
    return out[:, :, None] if grey else out


def _decode_jpeg(data: bytes, size: int | None) -> np.ndarray | None:
    """The quick path; None hands the file to Pillow (CMYK, oversize, anything libjpeg warns of)."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("Gray", "YCbCr", "RGB") or int(height) * int(width) > MAX_PIXELS:
            return None
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if colours == "Gray" else "RGB",
            min_height=size or 0,
            min_width=size or 0,
            min_factor=2 if size else 1,  # factors below 2 save no time
        )
    except ValueError:
        return None
    return turned(pixels, _exif_orientation(data))


def _exif_orientation(data: bytes) -> int:
    if b"Exif\0\0" not in data[: _scan_start(data)]:
        return 1
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            return _orientation(picture)
    except (OSError, ValueError, SyntaxError):
        return 1  # a broken EXIF block does not make the picture unusable


def _scan_start(data: bytes) -> int:
    """Where a JPEG's segments end and its pixels start: searching those costs too much."""
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1] != 0xDA:
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place


def _orientation(picture: Image.Image) -> int:
    value = picture.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and value in _TURNS else 1


def orientation_of(data: bytes) -> int:
    """How the stored pixels of a picture lie, 1 to 8 as in EXIF; 1 is upright.

    `decode_image` gives them upright, with `turned`.
    """
    if sniff(data) == "jpeg":
        return _exif_orientation(data)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            return _orientation(picture)
    except (OSError, ValueError, SyntaxError):
        return 1


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, ...] as stored, made upright."""
    return np.ascontiguousarray(_TURNS.get(orientation, _TURNS[1])(pixels))


def _decode_pillow(data: bytes, key: str) -> np.ndarray:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our own limit below is the one that counts
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise DataError(
                        f"{key}: {picture.width}×{picture.height} pixels, above the limit of "
                        f"{MAX_PIXELS}; shrink the picture"
                    )
                picture.load()
                orientation = _orientation(picture)  # Pillow has turned a TIFF, and says 1 now
                pixels = _to_8_bit(picture, key)
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise almost anything on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{key}: cannot decode the picture ({reason}); replace the file") from error
    return turned(pixels, orientation)


def _to_8_bit(picture: Image.Image, key: str) -> np.ndarray:
    if picture.mode.startswith("I"):
        return _scaled_16_bit(np.asarray(picture).astype(np.int64), key)
    if picture.mode == "F":
        raise DataError(f"{key}: floating-point pixels are not supported; store 8 or 16 bits")
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        return _on_white(picture)
    grey = picture.mode in ("1", "L")
    pixels = np.asarray(picture.convert("L" if grey else "RGB"))
    return pixels[:, :, None] if grey else pixels


def _scaled_16_bit(values: np.ndarray, key: str) -> np.ndarray:
    if values.min() < 0 or values.max() > 0xFFFF:
        raise DataError(f"{key}: grey values outside 16 bits; store 8 or 16 bits")
    return ((values + 128) // 257).astype(np.uint8)[:, :, None]


def _on_white(picture: Image.Image) -> np.ndarray:
    grey = picture.mode in ("1", "L", "LA", "La")
    layers = np.asarray(picture.convert("RGBA")).astype(np.uint32)
    colour, alpha = layers[:, :, :3], layers[:, :, 3:]
    pixels = ((colour * alpha + _WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)
    return pixels[:, :, :1] if grey else pixels


def _decode_npy(data: bytes, *, key: str, views: int) -> np.ndarray:
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{key}: cannot decode the views array ({reason}); pack again") from error
    if array.ndim == 3:
        array = array[:, :, :, None]
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise DataError(f"{key}: expected uint8 [V, H, W, 1 or 3], got {array.dtype} {array.shape}")
    if len(array) != views:
        raise DataError(f"{key}: holds {len(array)} views, expected {views}; pack again")
    return array


def _decode_tar(data: bytes, *, key: str, views: int) -> np.ndarray:
    files: dict[int, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                number = view_number(info.name.rpartition("/")[2].partition(".")[2])
                file = tar.extractfile(info) if info.isreg() else None
                if number is not None and file is not None:
                    files[number] = file.read()
    except tarfile.TarError as error:
        raise DataError(f"{key}: cannot read the views ({error}); index the tar again") from error
    if len(files) != views:
        raise DataError(f"{key}: holds {len(files)} views, expected {views}; index the tar again")
    pictures = [decode_image(files[n], key=f"{key}, view {n}") for n in sorted(files)]
    if len({picture.shape[:2] for picture in pictures}) > 1:
        side = max(max(picture.shape[:2]) for picture in pictures)
        pictures = [resize(picture, side) for picture in pictures]
    channels = max(picture.shape[2] for picture in pictures)
    return np.stack([np.broadcast_to(p, (*p.shape[:2], channels)) for p in pictures])
