import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from dataio.records import DataError
from dataio.shards.decode import decode_image, decode_views, resize, sniff
from tests.dataio.packed import picture


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RGB = Image.fromarray(picture(1, 24))


def test_png_is_lossless():
    assert np.array_equal(decode_image(encoded(RGB), key="k"), np.asarray(RGB))


def test_grey_keeps_one_channel():
    grey = RGB.convert("L")
    for kind in ("PNG", "JPEG"):
        assert decode_image(encoded(grey, kind), key="k").shape == (24, 24, 1)
    assert np.array_equal(decode_image(encoded(grey), key="k")[:, :, 0], np.asarray(grey))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_formats_are_told_apart_by_content(kind):
    data = encoded(RGB, kind)
    assert sniff(data) == kind.lower()
    assert decode_image(data, key="k").shape == (24, 24, 3)


def test_jpeg_equals_pillow():
    data = encoded(RGB, "JPEG", quality=90)
    with Image.open(io.BytesIO(data)) as reference:
        difference = decode_image(data, key="k").astype(int) - np.asarray(reference).astype(int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation(orientation, kind):
    from PIL import ImageOps

    image = Image.fromarray(picture(2, 32)[:16])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, kind, exif=exif)
    with Image.open(io.BytesIO(data)) as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    pixels = decode_image(data, key="k").astype(int)
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= 1


def test_cmyk_jpeg_becomes_rgb():
    image = Image.fromarray(np.full((8, 8, 3), (200, 30, 60), np.uint8)).convert("CMYK")
    pixels = decode_image(encoded(image, "JPEG", quality=98), key="k")
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - (200, 30, 60)).max() < 12


def test_palette_becomes_rgb():
    palette = Image.fromarray(np.repeat([[0, 1]], 2, 0).astype(np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    pixels = decode_image(encoded(palette), key="k")
    assert pixels[0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_transparency_is_laid_on_white():
    layers = np.zeros((2, 2, 4), np.uint8)
    layers[..., 3] = [[0, 255], [128, 51]]
    pixels = decode_image(encoded(Image.fromarray(layers)), key="k")
    assert pixels[..., 0].tolist() == [[255, 0], [127, 204]]


def test_sixteen_bits_become_eight():
    values = np.array([[0, 257, 65535, 32896]], dtype=np.uint16)
    pixels = decode_image(encoded(Image.fromarray(values)), key="k")
    assert pixels[:, :, 0].tolist() == [[0, 1, 255, 128]]


def test_size_resizes_and_large_jpegs_are_decoded_small():
    large = Image.fromarray(picture(3, 400))
    small = decode_image(encoded(large, "JPEG", quality=95), key="k", size=64)
    reference = np.asarray(large.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
    assert small.shape == (64, 64, 3)
    assert np.abs(small - reference).mean() < 3


def test_fit_stretch_keeps_all_and_crop_keeps_the_centre():
    pixels = np.zeros((10, 30, 1), np.uint8)
    pixels[:, 10:20] = 200
    assert resize(pixels, 10, fit="crop").min() == 200
    assert resize(pixels, 10, fit="stretch")[:, 0].max() == 0
    assert resize(pixels[:, :10], 10) is not None


def test_stacked_views_come_apart_in_order():
    tiles = np.stack([np.full((16, 16, 1), 20 * v, np.uint8) for v in range(12)])
    data = simplejpeg.encode_jpeg(
        tiles.reshape(192, 16, 1), quality=92, colorspace="GRAY", colorsubsampling="Gray"
    )
    views = decode_views(data, key="k", views=12)
    assert views.shape == (12, 16, 16, 1)
    assert np.abs(views.astype(int) - tiles).max() <= 2
    with pytest.raises(DataError, match="not 11 square tiles"):
        decode_views(data, key="k", views=11)


def test_views_array():
    def saved(array: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    array = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    assert np.array_equal(decode_views(saved(array), key="k", views=2)[..., 0], array)
    with pytest.raises(DataError, match="2 views, expected 3"):
        decode_views(saved(array), key="k", views=3)
    with pytest.raises(DataError, match="uint8"):
        decode_views(saved(array.astype(float)), key="k", views=2)
    with pytest.raises(DataError, match="decode"):
        decode_views(saved(array)[:-3], key="k", views=2)


def test_pickled_objects_are_never_loaded():
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="k"):
        decode_views(buffer.getvalue(), key="k", views=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no picture",
        b"\x93NUMPY",
        encoded(RGB, "JPEG")[:-200],
        encoded(RGB)[:-200],
        b"\xff\xd8\xff" + b"\0" * 50,
    ],
    ids=["empty", "text", "npy", "short-jpeg", "short-png", "jpeg-start"],
)
def test_broken_data_names_the_sample(data):
    with pytest.raises(DataError, match=r"photo-7") as caught:
        decode_image(data, key="photo-7")
    assert "\n" not in str(caught.value)


def test_a_bomb_is_refused(monkeypatch):
    monkeypatch.setattr("dataio.shards.decode.MAX_PIXELS", 500)
    for kind in ("PNG", "JPEG"):
        with pytest.raises(DataError, match="limit of 500"):
            decode_image(encoded(RGB, kind), key="k")


def test_float_pixels_are_refused():
    data = encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF")
    with pytest.raises(DataError, match="floating-point"):
        decode_image(data, key="k")
