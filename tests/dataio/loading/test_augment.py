import math

import numpy as np
import pytest
import torch

from dataio.loading.augment import (
    PARAMETERS,
    AugmentConfig,
    apply,
    draw,
    draw_views,
    uniform,
)
from dataio.loading.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from dataio.records import DataError

CONFIG = AugmentConfig(
    rotation_degrees=20, brightness=0.4, contrast=0.3, saturation=0.5, grey=0.3, negative=0.4
)
IDENTITY = torch.tensor([1.0, 0, 0, 1, 1, 0, 1, 1, 1, 0])


def pixels(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def normalised(x: torch.Tensor) -> torch.Tensor:
    return (x - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(
        3, 1, 1
    )


# ---- drawing


def test_uniform_is_splitmix64():
    # First output of the published generator for state 0: 0xE220A8397B1DCDAF.
    assert uniform(0)[0] == (0xE220A8397B1DCDAF >> 11) / 2**53


def test_uniform_is_uniform_and_uncorrelated():
    u = uniform(5, np.arange(300)[:, None], np.arange(200)[None, :])
    counts = np.histogram(u, bins=20, range=(0, 1))[0]
    chi_square = ((counts - 3000) ** 2 / 3000).sum()
    assert chi_square < 50  # 19 degrees of freedom: beyond 50 in 1 of 10,000 draws
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 0.02
    assert len(np.unique(u)) == u.size


def test_a_draw_depends_on_the_sample_and_nothing_else():
    rows = np.array([7, 3, 10**7, 12])
    whole = draw(CONFIG, seed=1, pass_index=2, rows=rows, views=5)
    assert whole.shape == (4, 5, len(PARAMETERS))
    assert whole.dtype == np.float32
    for i in (3, 0, 2):
        alone = draw(CONFIG, seed=1, pass_index=2, rows=rows[i : i + 1], views=5)
        assert np.array_equal(alone[0], whole[i])
    assert np.array_equal(draw(CONFIG, seed=1, pass_index=2, rows=rows), whole[:, 0])
    assert draw(CONFIG, seed=1, pass_index=2, rows=rows[:0]).shape == (0, len(PARAMETERS))
    assert draw(CONFIG, seed=1, pass_index=2, rows=rows[:0], views=3).shape[:2] == (0, 3)


@pytest.mark.parametrize("change", [{"seed": 2}, {"pass_index": 3}, {"rows": np.array([8])}])
def test_a_draw_depends_on_seed_pass_row_and_view(change):
    options = {"seed": 1, "pass_index": 2, "rows": np.array([7]), "views": 2}
    base = draw(CONFIG, **options)
    assert not np.array_equal(base, draw(CONFIG, **{**options, **change}))
    assert not np.array_equal(base[:, 0], base[:, 1])


def test_draws_stay_in_their_ranges():
    drawn = dict(
        zip(PARAMETERS, draw(CONFIG, seed=0, pass_index=0, rows=np.arange(5000)).T, strict=True)
    )
    assert set(drawn["mirror"]) == {-1, 1}
    assert abs((drawn["mirror"] < 0).mean() - 0.5) < 0.03
    area = drawn["half_x"] * drawn["half_y"]
    assert area.min() > 0.6 - 1e-5
    assert area.max() < 1 + 1e-5
    assert area.max() - area.min() > 0.35
    for axis in "xy":
        assert (np.abs(drawn[f"centre_{axis}"]) + drawn[f"half_{axis}"]).max() <= 1 + 1e-6
    assert 0.3 < np.abs(drawn["angle"]).max() <= math.radians(20) + 1e-6
    for name, reach in (("brightness", 0.4), ("contrast", 0.3)):
        assert np.abs(drawn[name] - 1).max() <= reach + 1e-6
        assert abs(drawn[name].mean() - 1) < 0.02
    assert abs((drawn["saturation"] == 0).mean() - 0.3) < 0.03


def test_nothing_to_draw_draws_the_identity():
    off = AugmentConfig(flip=0, area=(1, 1), aspect=(1, 1))
    drawn = draw(off, seed=3, pass_index=1, rows=np.arange(20))
    assert np.array_equal(drawn, np.tile(IDENTITY.numpy(), (20, 1)))


def test_views_are_drawn_without_replacement():
    rows, available = np.arange(400), np.full(400, 12)
    views = draw_views(seed=1, pass_index=0, rows=rows, available=available, count=4)
    assert views.shape == (400, 4)
    assert (np.diff(views, axis=1) > 0).all()
    counts = np.bincount(views.ravel(), minlength=12)
    assert counts.min() > 85  # 133 expected
    other = draw_views(seed=1, pass_index=1, rows=rows, available=available, count=4)
    assert (views != other).any(axis=1).mean() > 0.9


def test_a_shapes_views_do_not_depend_on_the_others():
    rows, available = np.array([5, 9, 2]), np.array([3, 12, 1])
    together = draw_views(seed=1, pass_index=0, rows=rows, available=available, count=5)
    for i in range(3):
        alone = draw_views(
            seed=1, pass_index=0, rows=rows[i : i + 1], available=available[i : i + 1], count=5
        )
        assert np.array_equal(alone[0], together[i])
    assert sorted(np.bincount(together[0], minlength=3)) == [1, 2, 2]
    assert together[2].tolist() == [0] * 5
    empty = draw_views(seed=1, pass_index=0, rows=rows[:0], available=available[:0], count=5)
    assert empty.shape == (0, 5)


# ---- applying


def test_without_jitter_pixels_keep_their_exact_values():
    x = pixels(5, 3, 8, 8)
    expected = normalised(x.float() / 255)
    assert torch.equal(apply(x, None, size=8), expected)
    grey = pixels(2, 4, 1, 8, 8)
    out = apply(grey, None, size=8)
    assert out.shape == (2, 4, 3, 8, 8)
    assert torch.equal(out, normalised(grey.float() / 255))


def test_identity_jitter_changes_nothing():
    x = pixels(5, 3, 9, 9)
    out = apply(x, IDENTITY.repeat(5, 1), size=9)
    assert torch.allclose(out, apply(x, None, size=9), atol=1e-4)


def test_mirror_flips():
    x = pixels(2, 3, 8, 8)
    jitter = IDENTITY.repeat(2, 1)
    jitter[0, 0] = -1
    out, plain = apply(x, jitter, size=8), apply(x, None, size=8)
    assert torch.allclose(out[0], plain[0].flip(-1), atol=1e-4)
    assert torch.allclose(out[1], plain[1], atol=1e-4)


def test_rotation_by_a_right_angle():
    x = pixels(1, 3, 8, 8)
    jitter = IDENTITY.repeat(1, 1)
    jitter[0, 5] = math.pi / 2
    out = apply(x, jitter, size=8)[0]
    assert torch.allclose(out, torch.rot90(apply(x, None, size=8)[0], 1, (1, 2)), atol=1e-3)


def test_crop_shows_the_chosen_part():
    x = pixels(1, 3, 12, 12)
    jitter = IDENTITY.repeat(1, 1)
    jitter[0, 1:5] = torch.tensor([1 / 3, -1 / 3, 2 / 3, 2 / 3])  # 8 of 12, upper right
    out = apply(x, jitter, size=8)
    expected = apply(x[..., :8, 4:].contiguous(), None, size=8)
    assert torch.allclose(out, expected, atol=1e-4)


def test_preset_crop_is_a_slice_of_the_resized_picture():
    # Caffe's augmentation: 227 of 256 pixels, every place as likely as the others, then a flip.
    size, decoded, n = 5, 8, 200
    x = pixels(n, 3, decoded, decoded)
    config = AugmentConfig(preset="crop", area=(0.1, 0.2))
    window = {"window": (size, decoded)}
    jitter = draw(config, seed=3, pass_index=1, rows=np.arange(n), **window)
    out = apply(x, torch.from_numpy(jitter), size=size, preprocessing=Preprocessing(crop=5 / 8))
    seen = set()
    for i in range(n):
        found = [
            (top, left, mirrored)
            for top in range(decoded - size + 1)
            for left in range(decoded - size + 1)
            for mirrored in (False, True)
            if torch.allclose(
                out[i],
                normalised(_flipped(x[i, :, top : top + size, left : left + size], mirrored) / 255),
                atol=1e-4,
            )
        ]
        assert len(found) == 1
        seen |= set(found)
    assert len(seen) == 2 * (decoded - size + 1) ** 2
    whole = draw(config, seed=3, pass_index=1, rows=np.arange(n))
    assert np.array_equal(whole[:, 1:5], np.tile([0, 0, 1, 1], (n, 1)).astype(np.float32))


def _flipped(x: torch.Tensor, mirrored: bool) -> torch.Tensor:
    return x.float().flip(-1) if mirrored else x.float()


def reference(x: np.ndarray, p: dict[str, float], size: int) -> np.ndarray:
    """One picture [C, H, W] the slow way: crop, flip, rotate, then colour."""
    channels, height, width = x.shape
    x = np.repeat(x, 3 // channels, axis=0) / 255.0
    out = np.zeros((3, size, size))
    for i in range(size):
        for j in range(size):
            u = p["half_x"] * p["mirror"] * ((2 * j + 1) / size - 1) * width / 2  # pixels
            v = p["half_y"] * ((2 * i + 1) / size - 1) * height / 2
            a = p["centre_x"] * width / 2 + u * math.cos(p["angle"]) - v * math.sin(p["angle"])
            b = p["centre_y"] * height / 2 + u * math.sin(p["angle"]) + v * math.cos(p["angle"])
            a = min(max(a + width / 2 - 0.5, 0), width - 1)
            b = min(max(b + height / 2 - 0.5, 0), height - 1)
            left, top = min(int(a), width - 2), min(int(b), height - 2)
            s, t = a - left, b - top
            out[:, i, j] = (1 - t) * ((1 - s) * x[:, top, left] + s * x[:, top, left + 1]) + t * (
                (1 - s) * x[:, top + 1, left] + s * x[:, top + 1, left + 1]
            )
    luma = np.array([0.299, 0.587, 0.114])
    out = out * p["brightness"]
    mean = float(luma @ x.mean(axis=(1, 2))) * p["brightness"]
    out = (out - mean) * p["contrast"] + mean
    grey = np.tensordot(luma, out, 1)[None]
    out = (grey + (out - grey) * p["saturation"]).clip(0, 1)
    out = 1 - out if p["negative"] else out
    return (out - np.reshape(IMAGENET_MEAN, (3, 1, 1))) / np.reshape(IMAGENET_STD, (3, 1, 1))


@pytest.mark.parametrize("shape", [(3, 10, 10), (1, 10, 10), (3, 10, 14)])
def test_apply_equals_the_slow_reference(shape):
    x = pixels(6, *shape)
    jitter = draw(CONFIG, seed=0, pass_index=0, rows=np.arange(6))
    out = apply(x, torch.from_numpy(jitter), size=9)
    for i in range(6):
        p = dict(zip(PARAMETERS, jitter[i].tolist(), strict=True))
        assert np.allclose(out[i].numpy(), reference(x[i].numpy(), p, 9), atol=2e-3)


@pytest.mark.parametrize("size", [16, 21, 40])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augmented", [False, True])
def test_a_result_does_not_depend_on_its_batch(size, channels, augmented):
    x = pixels(37, channels, 40, 40)
    jitter = torch.from_numpy(draw(CONFIG, seed=0, pass_index=0, rows=np.arange(37)))
    plain = torch.from_numpy(draw(AugmentConfig(), seed=0, pass_index=0, rows=np.arange(37)))
    jitter[::3] = plain[::3]  # some without any change of colour
    whole = apply(x, jitter if augmented else None, size=size)
    for start, end in ((0, 1), (5, 6), (30, 37), (3, 20)):
        part = apply(x[start:end], jitter[start:end] if augmented else None, size=size)
        assert torch.equal(part, whole[start:end])
    reverse = torch.arange(36, -1, -1)
    turned = apply(x[reverse], jitter[reverse] if augmented else None, size=size)
    assert torch.equal(turned[reverse], whole)


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("augmented", [False, True])
def test_grey_equals_three_equal_channels(size, augmented):
    grey = pixels(4, 5, 1, 24, 24)
    jitter = torch.from_numpy(draw(CONFIG, seed=0, pass_index=0, rows=np.arange(4), views=5))
    chosen = jitter if augmented else None
    assert torch.equal(
        apply(grey, chosen, size=size),
        apply(grey.repeat(1, 1, 3, 1, 1), chosen, size=size),
    )


def test_shapes_are_pictures_side_by_side():
    x = pixels(3, 4, 1, 12, 12)
    jitter = torch.from_numpy(draw(CONFIG, seed=0, pass_index=0, rows=np.arange(3), views=4))
    out = apply(x, jitter, size=12)
    flat = apply(x.flatten(0, 1), jitter.flatten(0, 1), size=12)
    assert torch.equal(out.flatten(0, 1), flat)


def test_downscaling_is_antialiased():
    stripes = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    stripes[..., ::2] = 255
    for jitter in (None, IDENTITY.repeat(1, 1)):
        out = apply(
            stripes,
            jitter,
            size=16,
            preprocessing=Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)),
        )
        assert (out - 0.5).abs().max() < 0.05


def test_zero_rows():
    jitter = torch.zeros(0, len(PARAMETERS))
    assert apply(pixels(0, 3, 8, 8), jitter, size=6).shape == (0, 3, 6, 6)
    assert apply(pixels(0, 3, 8, 8), None, size=6).shape == (0, 3, 6, 6)
    shapes = apply(pixels(0, 4, 1, 8, 8), jitter[:, None].expand(0, 4, -1), size=6)
    assert shapes.shape == (0, 4, 3, 6, 6)


@pytest.mark.parametrize(
    ("x", "jitter"),
    [
        (torch.zeros(2, 3, 4, 4), None),
        (pixels(2, 2, 4, 4), None),
        (pixels(3, 4, 4), None),
        (pixels(2, 3, 4, 4), torch.zeros(3, len(PARAMETERS))),
    ],
)
def test_wrong_shapes_are_refused(x, jitter):
    with pytest.raises(DataError):
        apply(x, jitter, size=4)


@pytest.mark.parametrize(
    "options",
    [
        {"preset": "centre"},
        {"flip": 1.5},
        {"area": (0, 1)},
        {"area": (0.9, 0.5)},
        {"aspect": (0, 1)},
        {"rotation_degrees": -1},
        {"contrast": -0.1},
    ],
)
def test_bad_options_are_named(options):
    with pytest.raises(DataError, match=next(iter(options))):
        AugmentConfig(**options)
