"""What becomes of one record's files: own bytes or new ones, crops, masks, renders."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataio.packing.encoding import Encoded, encode
from dataio.records import DataError, Record
from dataio.shards.decode import decode_image, decode_views, sniff, turned
from tests.dataio.packed import picture

BOX = (4.0, 6.0, 20.0, 26.0)  # 16 wide, 20 high


def saved(path: Path, image: Image.Image, kind: str, **options) -> Path:
    image.save(path, kind, **options)
    return path


def photo(path: Path, **changes) -> Record:
    return Record("k", "image", "train", "a", image=path, **changes)


def run(record: Record, *, image_size: int | None = None, render=None) -> Encoded:
    return encode(record, image_size=image_size, views="npy", render=render)


def pixels(encoded: Encoded) -> np.ndarray:
    return decode_image(encoded.content, key="k")


@pytest.fixture
def png(tmp_path: Path) -> Path:
    return saved(tmp_path / "photo.png", Image.fromarray(picture(1)), "PNG")


def mask_file(tmp_path: Path, values: np.ndarray) -> Path:
    return saved(tmp_path / "mask.png", Image.fromarray(values.astype(np.uint8)), "PNG")


def test_untouched_pictures_keep_their_bytes_whatever_their_mode_and_name(tmp_path):
    rgb = Image.fromarray(picture(1))
    sixteen = Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 60)
    for name, image, kind, suffix in (
        ("cmyk.jpg", rgb.convert("CMYK"), "JPEG", "jpg"),
        ("grey.jpg", rgb.convert("L"), "JPEG", "jpg"),
        ("sixteen.png", sixteen, "PNG", "png"),
        ("rgba.png", rgb.convert("RGBA"), "PNG", "png"),
        ("named.JPEG", rgb, "PNG", "png"),
    ):
        file = saved(tmp_path / name, image, kind)
        assert run(photo(file)) == Encoded(suffix, file.read_bytes(), 0), name


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "GIF", "WEBP"])
def test_other_formats_become_png(tmp_path, kind):
    file = saved(tmp_path / "photo.jpg", Image.fromarray(picture(1)), kind)
    encoded = run(photo(file))
    assert (encoded.suffix, sniff(encoded.content)) == ("png", "png")
    assert np.array_equal(pixels(encoded), decode_image(file.read_bytes(), key="k"))


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"hello", "no known picture format"), (None, "cannot read"), (b"", "no known picture")],
)
def test_what_is_no_picture_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.jpg: .*{message}"):
        run(photo(tmp_path / "a.jpg"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_truncated_pictures_are_named(tmp_path, kind):
    file = saved(tmp_path / "cut.png", Image.fromarray(picture(1, 64)), kind)
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=r"cut\.png: cannot decode"):
        run(photo(file, crop=BOX))


def test_a_crop_of_a_png_is_exact(png):
    encoded = run(photo(png, crop=BOX))
    assert encoded.suffix == "png"
    assert np.array_equal(pixels(encoded), picture(1)[6:26, 4:20])
    assert run(photo(png, crop=BOX)) == encoded


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_crop_of_a_jpeg_is_a_jpeg_of_good_quality(tmp_path, mode):
    source = Image.fromarray(picture(1)).convert(mode)
    file = saved(tmp_path / "photo.jpg", source, "JPEG", quality=95)
    encoded = run(photo(file, crop=BOX))
    assert encoded.suffix == "jpg"
    with Image.open(io.BytesIO(encoded.content)) as coded:
        assert (coded.format, coded.size) == ("JPEG", (16, 20))
        assert coded.mode == ("L" if mode == "L" else "RGB")
        if mode != "L":
            # Components, sampling: no chroma is averaged, at 4:4:4 all factors are 1.
            assert {layer[1:3] for layer in coded.layer} == {(1, 1)}
    expected = decode_image(file.read_bytes(), key="k")[6:26, 4:20].astype(int)
    assert np.abs(pixels(encoded) - expected).mean() < 3
    assert run(photo(file, crop=BOX)) == encoded


def test_a_crop_is_rounded_and_clipped(png):
    encoded = run(photo(png, crop=(-5.0, 9.6, 12.4, 400.0)))
    assert np.array_equal(pixels(encoded), picture(1)[10:, :12])


@pytest.mark.parametrize(
    "crop",
    [
        (0, 0, 32, 32), (-3, -3, 99, 99), (5, 5, 5, 20), (20, 5, 5, 20), (5.1, 5, 5.2, 20),
        (40, 0, 50, 20), (0, -9, 20, -1), (0, 0, 0, 0), (float("nan"), 0, 9, 9),
        (0, 0, float("inf"), 9),
    ],
)  # fmt: skip
def test_a_crop_of_all_or_of_nothing_leaves_the_file_as_it_is(png, crop):
    assert run(photo(png, crop=crop)) == Encoded("png", png.read_bytes(), 0)


def test_a_crop_is_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    source = Image.fromarray(picture(1)[:16])  # stored 32 wide, 16 high
    file = saved(tmp_path / "turned.png", source, "PNG", exif=exif)
    upright = decode_image(file.read_bytes(), key="k")
    assert upright.shape == (32, 16, 3)
    assert np.array_equal(pixels(run(photo(file, crop=(2, 10, 12, 30)))), upright[10:30, 2:12])


def test_a_crop_is_made_before_the_size(png):
    assert pixels(run(photo(png, crop=BOX), image_size=8)).shape == (10, 8, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_makes_white_what_is_black_in_it(tmp_path, channels):
    source = Image.fromarray(picture(1, channels=channels)).convert("L" if channels == 1 else "RGB")
    file = saved(tmp_path / "photo.png", source, "PNG")
    keep = np.zeros((32, 32))
    keep[8:24, 4:20] = 1  # anything but 0 is the object
    encoded = run(photo(file, mask=mask_file(tmp_path, keep)))
    got = pixels(encoded)
    assert got.shape == (32, 32, channels)
    assert (got[keep == 0] == 255).all()
    original = decode_image(file.read_bytes(), key="k")
    assert np.array_equal(got[keep == 1], original[keep == 1])
    both = run(photo(file, mask=mask_file(tmp_path, keep), crop=BOX))
    assert np.array_equal(pixels(both), got[6:26, 4:20])


def test_a_mask_of_the_whole_picture_leaves_the_file_as_it_is(png, tmp_path):
    mask = mask_file(tmp_path, np.full((32, 32), 255))
    assert run(photo(png, mask=mask)).content == png.read_bytes()


def test_a_mask_of_another_size_names_both(png, tmp_path):
    mask = mask_file(tmp_path, np.zeros((10, 20)))
    with pytest.raises(DataError, match=r"mask\.png: mask 20x10, image 32x32 \(.*photo\.png\)"):
        run(photo(png, mask=mask))
    with pytest.raises(DataError, match=r"gone\.png: cannot read"):
        run(photo(png, mask=tmp_path / "gone.png"))


def test_render_is_called_with_the_record(tmp_path):
    record = Record("m", "shape", "train", "a", mesh=tmp_path / "m.off", up_axis="+y")
    tiles = np.stack([picture(v, 16) for v in range(3)])
    called: list[Record] = []

    def render(given: Record) -> np.ndarray:
        called.append(given)
        return tiles

    encoded = run(record, render=render)
    assert called == [record]
    assert np.array_equal(decode_views(encoded.content, key="m", views=3), tiles)
    with pytest.raises(DataError, match=r"m\.off: record m is a mesh without views"):
        run(record)


TURNED = range(1, 9)


def red_square(tmp_path: Path, orientation: int, kind: str) -> tuple[Path, np.ndarray]:
    """A photo whose object is in the stored pixels 10..30 x 5..25, and its mask there."""
    stored = np.full((40, 60, 3), 90, np.uint8)
    stored[5:25, 10:30] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"{orientation}.{kind.lower()}"
    Image.fromarray(stored).save(file, kind, exif=exif)
    return file, stored[:, :, 1] == 0


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_a_box_for_the_stored_pixels_follows_the_orientation(tmp_path, orientation, kind):
    file, keep = red_square(tmp_path, orientation, kind)
    drawn = {"crop": (10, 5, 30, 25), "drawn_on": (60, 40)}
    found = pixels(run(photo(file, **drawn)))
    assert found.shape == (20, 20, 3)
    assert found[4:-4, 4:-4, 0].min() > 195
    assert found[4:-4, 4:-4, 1].max() < 60
    masked = pixels(run(photo(file, mask=mask_file(tmp_path, keep * 255), **drawn)))
    assert masked[4:-4, 4:-4, 1].max() < 60
    other = mask_file(tmp_path, ~keep * 255)
    assert pixels(run(photo(file, mask=other, **drawn)))[4:-4, 4:-4].min() > 240


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_orientation_is_applied_once(tmp_path, orientation, kind):
    file, keep = red_square(tmp_path, orientation, kind)
    upright = decode_image(file.read_bytes(), key="a")
    found = np.abs(upright.astype(int) - (255, 0, 0)).max(axis=2) < 60
    expected = turned(keep, orientation)
    assert upright.shape[:2] == expected.shape
    assert (found != expected).mean() < 0.05  # a JPEG blurs the edges


def test_a_box_for_the_upright_picture_is_taken_as_it_is(tmp_path):
    file, _ = red_square(tmp_path, 6, "PNG")
    upright = decode_image(file.read_bytes(), key="a")  # 40 x 60
    found = run(photo(file, crop=(3, 10, 13, 50), drawn_on=(40, 60)))
    assert np.array_equal(pixels(found), upright[10:50, 3:13])


def test_a_box_for_a_picture_of_another_size_is_refused_with_both_sizes(tmp_path):
    file, keep = red_square(tmp_path, 6, "PNG")
    for changes in ({"crop": (10, 5, 30, 25)}, {"mask": mask_file(tmp_path, keep)}):
        with pytest.raises(DataError, match=r"6\.png: photo 60x40, its box is for 120x80; restore"):
            run(photo(file, drawn_on=(120, 80), **changes))
    assert run(photo(file, drawn_on=(120, 80))).content == file.read_bytes()  # nothing to cut
