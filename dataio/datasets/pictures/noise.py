"""Random fields and colours that photos and sketches are made of."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray


def fractal_noise(rng: Generator, size: int, slope: float) -> NDArray[np.float64]:
    """A 1/f^slope field [size, size], stretched to 0..1; a larger slope is smoother."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    spectrum = np.fft.rfft2(rng.normal(size=(size, size))) / frequency**slope
    field = np.fft.irfft2(spectrum, s=(size, size))
    field -= field.min()
    return field / field.max()


def palette_colour(rng: Generator) -> NDArray[np.float64]:
    """An RGB colour [3] in .08..0.92: vivid on 60 %, otherwise near grey."""
    vivid = rng.random(3)
    if rng.random() >= 0.6:
        vivid = 0.35 * vivid + 0.65 * vivid.mean()
    return 0.08 + 0.84 * vivid


def tinted_colour(rng: Generator, hue: float) -> NDArray[np.float64]:
    """A strong RGB colour [3] whose hue is drawn from N(hue, .04); hues run over 0..1."""
    turned = (hue + rng.normal(0, 0.04)) % 1.0
    rgb = colorsys.hsv_to_rgb(turned, rng.uniform(0.45, 0.95), rng.uniform(0.5, 0.95))
    return np.array(rgb)
