"""Augmentation in two halves: `draw` gives each sample its parameters, `apply` changes the pixels.

Parameters come from a counter-based generator: each number is a hash of (seed, pass, row, view,
slot). A sample's augmentation therefore depends on nothing but itself and the pass: not on its
batch, its rank, or the order of calls. `apply` treats every picture alone, on any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from dataio.loading.preprocessing import IMAGENET, Preprocessing
from dataio.records import DataError

# The P columns of `draw`. A point (x, y) of the result, in [-1, 1], shows the input's point
# centre + rotate(half * (mirror * x, y), angle).
PARAMETERS: tuple[str, ...] = (
    "mirror",  # 1, or -1 for a horizontal flip
    "centre_x",
    "centre_y",
    "half_x",
    "half_y",
    "angle",  # radians
    "brightness",  # factors, 1 = unchanged
    "contrast",
    "saturation",  # 0 = grey
    "negative",  # 1 = inverted
)

Preset = Literal["area", "crop"]
PRESETS: tuple[Preset, ...] = get_args(Preset)

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


@dataclass(frozen=True)
class AugmentConfig:
    """What training pictures may look like; the defaults suit photos of objects.

    For rendered shapes, `flip` and mild crops are usual; for sketches, no colour changes.
    """

    # area: a crop of random area and aspect, stretched to the input. crop: as in Caffe's line of
    # work, a square of the input's size at a random place of the resized picture, pixel by pixel;
    # how much larger that picture is follows from the preprocessing's crop (256 against 227).
    preset: Preset = "area"
    flip: float = 0.5  # probability of a horizontal flip
    area: tuple[float, float] = (0.6, 1.0)  # part of the picture's area that a crop keeps (area)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)  # width / height of a crop (area)
    rotation_degrees: float = 0.0  # at most, either way; the outside repeats the border's pixels
    brightness: float = 0.0  # factor drawn from [1 - x, 1 + x]
    contrast: float = 0.0  # likewise, about the picture's mean grey
    saturation: float = 0.0  # likewise, between grey (0) and the picture's colours (1)
    grey: float = 0.0  # probability of removing all colour
    negative: float = 0.0  # probability of inverting: white ground for black, dark for bright

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            known = " or ".join(PRESETS)
            raise DataError(f"augment.preset must be {known}, got {self.preset}")
        for name in ("flip", "grey", "negative", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"augment.{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 < self.area[0] <= self.area[1] <= 1:
            raise DataError(f"augment.area must be low <= high in (0, 1], got {self.area}")
        if not 0 < self.aspect[0] <= self.aspect[1] < math.inf:
            raise DataError(f"augment.aspect must be 0 < low <= high, got {self.aspect}")
        if not 0 <= self.rotation_degrees <= 180:
            raise DataError(
                f"augment.rotation_degrees must be in [0, 180], got {self.rotation_degrees}"
            )


# ---- drawing -----------------------------------------------------------------------------------


def uniform(seed: int, *counters: int | np.ndarray) -> np.ndarray:
    """Uniform float64 in [0, 1) for every element of the broadcast integer `counters`.

    A chain of SplitMix64 finalisers (Steele, Lea & Flood, OOPSLA 2014) over seed and counters;
    the same on every machine.
    """
    state = _mixed(_words(seed))
    for counter in counters:
        state = _mixed(state ^ _mixed(_words(counter)))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _words(values: int | np.ndarray) -> np.ndarray:
    if isinstance(values, int):
        values = np.array([values & (1 << 64) - 1], dtype=np.uint64)
    return values.astype(np.uint64)


def _mixed(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(0x9E3779B97F4A7C15)  # wraps modulo 2^64, as intended
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def draw(
    config: AugmentConfig,
    *,
    seed: int,
    pass_index: int | np.ndarray,
    rows: np.ndarray,
    views: int | None = None,
    window: tuple[int, int] = (1, 1),
) -> np.ndarray:
    """Draw augmentation parameters, float32 [n, P] or, with `views` = V, [n, V, P].

    The columns are PARAMETERS. Each sample's numbers depend only on (seed, its pass, its row),
    and each view has its own.

    Args:
        config: what may be drawn.
        seed: a non-negative integer.
        pass_index: the same for all samples, or one for each, int64 [n]; non-negative.
        rows: int64 [n], the samples' rows in the manifest.
        views: V, None for single pictures.
        window: sides in pixels of the network's input and of the decoded picture, of which preset
            crop cuts the one out of the other.
    """
    rows = np.asarray(rows, dtype=np.int64)
    view = np.arange(1 if views is None else views)
    passes = np.asarray(pass_index).reshape(-1, 1, 1)
    u = uniform(
        seed, passes, rows[:, None, None], view[None, :, None], np.arange(len(PARAMETERS) + 1)
    )
    if config.preset == "crop":
        half_x = half_y = np.full(u.shape[:-1], window[0] / window[1])
        centre_x, centre_y = (_place(u[..., i], *window) for i in (3, 4))
    else:
        half_x, half_y = _crop(config, u[..., 0], u[..., 1])
        centre_x, centre_y = (1 - half_x) * (2 * u[..., 3] - 1), (1 - half_y) * (2 * u[..., 4] - 1)
    gain = [1 + f * (2 * u[..., 6 + i] - 1) for i, f in enumerate(_gains(config))]
    columns = [
        np.where(u[..., 2] < config.flip, -1.0, 1.0),
        centre_x,
        centre_y,
        half_x,
        half_y,
        math.radians(config.rotation_degrees) * (2 * u[..., 5] - 1),
        *gain[:2],
        np.where(u[..., 9] < config.grey, 0.0, gain[2]),
        np.where(u[..., 10] < config.negative, 1.0, 0.0),
    ]
    drawn = np.stack(columns, axis=-1).astype(np.float32)
    return drawn[:, 0] if views is None else drawn


def _crop(config: AugmentConfig, u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half width and height of the crop, as parts of the picture's, at most 1."""
    low, high = config.area
    area = low + (high - low) * u
    first, last = (math.log(a) for a in config.aspect)
    # An aspect that the area cannot have inside the picture is brought to the nearest possible.
    aspect = np.clip(np.exp(first + (last - first) * v), area, 1 / area)
    return np.minimum(1.0, np.sqrt(area * aspect)), np.minimum(1.0, np.sqrt(area / aspect))


def _place(u: np.ndarray, size: int, decoded: int) -> np.ndarray:
    """Centre in [-1, 1] of a window of `size` pixels that starts at a random whole pixel."""
    return (2 * np.floor(u * (decoded - size + 1)) + size) / decoded - 1


def _gains(config: AugmentConfig) -> tuple[float, float, float]:
    return config.brightness, config.contrast, config.saturation


def draw_views(
    *, seed: int, pass_index: int | np.ndarray, rows: np.ndarray, available: np.ndarray, count: int
) -> np.ndarray:
    """Choose `count` views of each shape for one pass: view numbers int64 [n, count], ascending.

    Without replacement; a shape with fewer views gives each of them floor or ceil of count/V times.
    Depends, as in `draw`, only on (seed, pass, row) and the shape's own number of views.

    Args:
        seed: a non-negative integer.
        pass_index: the same for all samples, or one for each, int64 [n]; non-negative.
        rows: int64 [n], the shapes' rows in the manifest.
        available: int64 [n], how many views each shape has (V >= 1).
        count: views to choose.
    """
    rows, available = np.asarray(rows, dtype=np.int64), np.asarray(available, dtype=np.int64)
    if len(rows) == 0:
        return np.zeros((0, count), dtype=np.int64)
    view = np.arange(available.max())
    passes = np.asarray(pass_index).reshape(-1, 1)
    # Slots from 2^32 on: apart from those of `draw`.
    keys = uniform(seed, passes, rows[:, None], view[None, :], 1 << 32)
    keys[view[None, :] >= available[:, None]] = 2.0  # behind every real view
    order = np.argsort(keys, axis=1, kind="stable")
    slots = np.arange(count)[None, :] % available[:, None]
    return np.sort(np.take_along_axis(order, slots, axis=1), axis=1).astype(np.int64)


def all_views(available: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Every view of the samples at `positions`: view numbers int64 [n, V].

    V is that of the stream's richest shape; shapes with fewer views repeat theirs in turn.

    Args:
        available: int [N], how many views each sample of the stream has; 0 for single pictures.
        positions: int64 [n], places in the stream.
    """
    view = np.arange(max(1, int(available.max())))
    return view[None, :] % np.maximum(1, available[positions].astype(np.int64))[:, None]


# ---- applying ----------------------------------------------------------------------------------


@torch.no_grad()
def apply(
    pixels: torch.Tensor,
    jitter: torch.Tensor | None,
    *,
    size: int,
    preprocessing: Preprocessing = IMAGENET,
) -> torch.Tensor:
    """Augment and normalise: float32 [n, 3, size, size] or [n, V, 3, size, size].

    Without jitter, pictures of the right size keep their exact values, others are resized
    (bilinear, antialiased), and the centre is kept where the preprocessing crops. With jitter:
    crop, flip and rotation in one bilinear sampling (after averaging blocks of pixels if pictures
    are at least twice the size asked for), then brightness, contrast about the input picture's mean
    grey, saturation, a clip to [0, 1], and for negatives 1 minus all that. A picture's result does
    not depend on the others in its batch, bit for bit; grey pictures give what the same picture
    with three equal channels gives.

    Args:
        pixels: uint8 [n, C, H, W] or [n, V, C, H, W] on any device, C = 1 or 3; n may be 0.
        jitter: float32 [n, P] or [n, V, P] from `draw` on the same device, or None.
        size: side of the result in pixels.
        preprocessing: mean, std, channel order, range and crop; pictures were resized before.
    """
    lead, (channels, height, width) = pixels.shape[:-3], pixels.shape[-3:]
    if pixels.dtype != torch.uint8 or len(lead) not in (1, 2) or channels not in (1, 3):
        raise DataError(
            "pixels must be uint8 [n, C, H, W] or [n, V, C, H, W] with C = 1 or 3, "
            f"got {pixels.dtype} {tuple(pixels.shape)}"
        )
    flat = pixels.reshape(-1, channels, height, width)
    if jitter is not None and tuple(jitter.shape) != (*lead, len(PARAMETERS)):
        raise DataError(
            f"jitter must be {(*lead, len(PARAMETERS))} for pixels {tuple(pixels.shape)}, "
            f"got {tuple(jitter.shape)}"
        )
    if len(flat) == 0:
        return torch.empty(*lead, 3, size, size, dtype=torch.float32, device=pixels.device)
    if jitter is None:
        out = _centre(_resized(flat.float().div_(255), preprocessing.decoded(size)), size)
    else:
        parameters = jitter.reshape(-1, len(PARAMETERS)).float()
        out = _coloured(_warped(flat, parameters, size), flat, parameters)
        out = _inverted(out, parameters[:, 9].view(-1, 1, 1, 1) > 0)
    return _normalised(out, preprocessing).reshape(*lead, 3, size, size)


def _normalised(x: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Float [m, C, S, S] in [0, 1] to [m, 3, S, S] in the numbers and the order of the weights."""
    if preprocessing.channels == "bgr" and x.shape[1] == 3:
        x = x.flip(1)
    if preprocessing.range != 1:
        x = x * preprocessing.range
    mean, std = (_per_channel(v, x.device) for v in (preprocessing.mean, preprocessing.std))
    return x.sub(mean).div_(std)


@lru_cache(maxsize=64)
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Constants float32 [1, 3, 1, 1]; kept, since a GPU would be waited for at every copy."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)


def _resized(x: torch.Tensor, size: int) -> torch.Tensor:
    n, channels, height, width = x.shape
    if (height, width) == (size, size):
        return x
    planes = x.reshape(n * channels, 1, height, width)  # one layout whatever C: one code path
    planes = F.interpolate(
        planes, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
    return planes.reshape(n, channels, size, size)


def _centre(x: torch.Tensor, size: int) -> torch.Tensor:
    """The middle [m, C, size, size] of [m, C, S, S], S >= size."""
    start = round((x.shape[-1] - size) / 2)
    return x[..., start : start + size, start : start + size]


def _warped(flat: torch.Tensor, parameters: torch.Tensor, size: int) -> torch.Tensor:
    """Crop, flip and rotate uint8 [m, C, H, W] to float [m, C, size, size] in [0, 1]."""
    x = flat.float().div_(255)
    shrink = min(x.shape[-2:]) // size
    if shrink >= 2:  # grid_sample reads 2×2 pixels only: it would alias
        x = F.avg_pool2d(x, shrink)
    grid = _grid(parameters, size, x.shape[-2] / x.shape[-1])
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _grid(parameters: torch.Tensor, size: int, ratio: float) -> torch.Tensor:
    """Sampling points float [m, size, size, 2]; `ratio` = H / W keeps rotations rigid.

    Written out element by element: a batched matrix product may round by batch size.
    """
    mirror, centre_x, centre_y, half_x, half_y, angle = (
        p.view(-1, 1, 1) for p in parameters.unbind(1)[:6]
    )
    steps = torch.arange(size, dtype=torch.float32, device=parameters.device)
    steps = (2 * steps + 1) / size - 1  # pixel centres
    x, y = half_x * mirror * steps.view(1, 1, -1), half_y * steps.view(1, -1, 1)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack(
        [centre_x + cos * x - sin * ratio * y, centre_y + sin / ratio * x + cos * y], dim=-1
    )


def _coloured(x: torch.Tensor, flat: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
    """Brightness, contrast and saturation of float [m, C, S, S]; `flat` are the input pixels.

    The contrast's pivot comes from the input's integer sum, which is exact in any order.
    """
    factors = parameters[:, 6:9]
    if factors.device.type == "cpu" and bool((factors == 1).all()):
        return x  # what the arithmetic below gives, exactly; on a GPU asking costs more than doing
    brightness, contrast, saturation = (p.view(-1, 1, 1, 1) for p in factors.unbind(1))
    area = 255.0 * flat.shape[-2] * flat.shape[-1]
    sums = flat.sum(dim=(-2, -1), keepdim=True, dtype=torch.int64)
    pivot = _luma(sums.double() / area).float() * brightness
    x = x * (brightness * contrast) + pivot * (1 - contrast)
    return (x * saturation + _luma(x) * (1 - saturation)).clamp_(0, 1)


def _inverted(x: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Float [m, C, S, S] in [0, 1] with the pictures of the mask [m, 1, 1, 1] inverted."""
    if negative.device.type == "cpu" and not bool(negative.any()):
        return x  # on a GPU asking costs more than doing
    return torch.where(negative, 1 - x, x)


def _luma(x: torch.Tensor) -> torch.Tensor:
    """Grey [m, 1, ...] of [m, C, ...]; one channel goes through the same arithmetic as three."""
    red, green, blue = (x[:, i : i + 1] for i in ((0, 1, 2) if x.shape[1] == 3 else (0, 0, 0)))
    return red * _LUMA[0] + green * _LUMA[1] + blue * _LUMA[2]
