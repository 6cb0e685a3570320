"""Tars that other programs wrote: indexed, read through the loader's own reader, and verified."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from webdataset.writer import ShardWriter

from dataio.checking.soundness import check
from dataio.loading.sources import StreamSource
from dataio.packing.foreign import index
from dataio.parallel import in_processes, in_threads
from dataio.records import DataError
from dataio.shards.decode import decode_image, decode_views
from dataio.shards.manifest import MANIFEST_NAME, Manifest
from dataio.shards.opening import load_manifest
from dataio.shards.reading import (
    ShardReader,
    as_webdataset,
    content_member,
    verify_content,
    verify_shard,
)
from tests.dataio.packed import open_loader, packed, picture

LONG = "a-folder-with-a-long-name/" * 5 + "picture-with-a-long-name-" * 4


def encoded(seed: int, side: int = 16, kind: str = "PNG", *, channels: int = 3) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(picture(seed, side, channels=channels))
    image.save(buffer, format=kind)
    return buffer.getvalue()


def tar(path: Path, files: dict[str, bytes], **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def images(root: Path, **options: object) -> Manifest:
    return index(root, stream="image", split="train", **options)


def shapes(root: Path, **options: object) -> Manifest:
    return index(root, stream="shape", split="train", **options)


def pixels(manifest: Manifest, key: str) -> np.ndarray:
    row = manifest.keys.index(key)
    reader = ShardReader(manifest.root, manifest.shards)
    verify_content(manifest, row, reader=reader)
    data = reader.read(int(manifest.shard_ids[row]), content_member(manifest, row))
    if views := int(manifest.views[row]):
        return decode_views(data, key=key, views=views)
    return decode_image(data, key=key)


def assert_sound(manifest: Manifest) -> None:
    held = load_manifest(manifest.root)
    assert held.fingerprint == manifest.fingerprint
    assert held.metadata == manifest.metadata
    for shard_id in range(len(held.shards)):
        verify_shard(held, shard_id)
    found = check(manifest.root, run=in_threads(2))
    assert not found.bad_samples, found.bad_samples
    assert not found.bad_shards


def test_written_by_webdataset(tmp_path):
    pattern = str(tmp_path / "train-%04d.tar")
    with ShardWriter(pattern, maxcount=3, verbose=0) as writer:
        for i in range(7):
            writer.write({"__key__": f"{i:05d}", "jpg": encoded(i, kind="JPEG"), "cls": i % 3})
    manifest = images(tmp_path)
    assert [shard.samples for shard in manifest.shards] == [3, 3, 1]
    assert manifest.classes == ("0", "1", "2")
    assert manifest.labels.tolist() == ["0", "1", "2", "0", "1", "2", "0"]
    assert manifest.class_ids.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert manifest.metadata["dataset"] == tmp_path.name
    assert np.array_equal(pixels(manifest, "00004"), decode_image(encoded(4, kind="JPEG"), key="k"))
    assert_sound(manifest)
    samples = list(as_webdataset(tmp_path, "image", "train"))
    assert [sample["__key__"] for sample in samples] == manifest.keys


@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["u", "gnu", "pax"]
)
def test_headers_of_all_formats(tmp_path, form):
    names = ["plain", "ünï-cödé", "with space/and+sign"]
    if form != tarfile.USTAR_FORMAT:
        names.append(LONG)
    files = {}
    for i, name in enumerate(names):
        files[f"{name}.PNG"] = encoded(i)
        files[f"{name}.cls"] = b"1"
    tar(tmp_path / "a.tar", files, format=form)
    manifest = images(tmp_path)
    assert manifest.keys == names
    for i, name in enumerate(names):
        assert np.array_equal(pixels(manifest, name), picture(i, 16))
    assert manifest.labels.tolist() == ["1"] * len(names)
    assert_sound(manifest)


def test_keys_and_suffixes_as_webdataset_has_them(tmp_path):
    files = {
        "__meta__": b"x",
        "__index__/a.png": b"x",
        "folder.v1/a.png": encoded(1),
        "folder.v1/a.seg.png": b"a mask",
        "._a.png": b"resource fork",
        "folder.v1/._a.png": b"resource fork",
        "LICENSE": b"none",
        "folder.v1/b.webp": encoded(2, kind="WEBP"),
        "folder.v1/b.txt": b"a caption",
        "folder.v1/c.jpeg": encoded(3, kind="JPEG"),
        "folder.v1/d.png": encoded(4),
        "folder.v1/d.jpg": encoded(5, kind="JPEG"),
    }
    tar(tmp_path / "a.tar", files)
    manifest = images(tmp_path)
    assert manifest.keys == [f"folder.v1/{name}" for name in "abcd"]
    assert [m[0].suffix for m in manifest.members] == ["png", "webp", "jpeg", "jpg"]
    assert np.array_equal(pixels(manifest, "folder.v1/a"), picture(1, 16))
    assert manifest.labels.tolist() == [None] * 4
    assert manifest.class_ids.tolist() == [-1] * 4
    assert_sound(manifest)


def test_img2dataset_folder(tmp_path):
    for shard in range(2):
        files = {}
        for i in range(3):
            key = f"{shard:05d}{i:04d}"
            files[f"{key}.jpg"] = encoded(10 * shard + i, kind="JPEG")
            files[f"{key}.json"] = json.dumps(
                {"key": key, "caption": "a chair", "status": "success", "label": None}
            ).encode()
            files[f"{key}.txt"] = b"a chair"
        tar(tmp_path / f"{shard:05d}.tar", files)
        table = pa.table({"key": ["x"] * 4, "status": ["success"] * 3 + ["failed_to_download"]})
        pq.write_table(table, tmp_path / f"{shard:05d}.parquet")
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    manifest = images(tmp_path, name="laion")
    assert len(manifest) == 6
    assert manifest.metadata["dataset"] == "laion"
    assert manifest.keys[-1] == "000010002"
    assert manifest.classes == ()
    assert_sound(manifest)


@pytest.mark.parametrize("order", ["numeric", "as text"])
@pytest.mark.parametrize(
    "form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["u", "gnu", "pax"]
)
def test_several_view_members(tmp_path, form, order):
    keys = ["bed/1", "2", LONG] if form != tarfile.USTAR_FORMAT else ["bed/1", "2"]
    files = {}
    for i, key in enumerate(keys):
        views = [f"{v}.jpg" if i == 0 else f"v{v:02d}.png" for v in range(12)]
        for name in views if order == "numeric" else sorted(views):
            number = int(name.strip("v").split(".")[0])
            kind = "JPEG" if name.endswith("jpg") else "PNG"
            files[f"{key}.{name}"] = encoded(100 * i + number, kind=kind, channels=1)
        files[f"{key}.cls"] = str(i).encode()
    tar(tmp_path / "a.tar", files, format=form)
    manifest = shapes(tmp_path)
    assert manifest.views.tolist() == [12] * len(keys)
    for i, key in enumerate(keys[1:], 1):
        found = pixels(manifest, key)
        expected = np.stack([picture(100 * i + v, 16, channels=1) for v in range(12)])
        assert np.array_equal(np.broadcast_to(found, expected.shape), expected)
    assert pixels(manifest, "bed/1").shape[:3] == (12, 16, 16)
    assert manifest.labels.tolist() == [str(i) for i in range(len(keys))]
    assert_sound(manifest)


def test_view_members_with_others_between_and_of_several_sizes(tmp_path):
    files = {
        "a.cls": b"sofa",
        "a.view_1.png": encoded(1, 16),
        "a.view_1_depth.png": b"of no interest",
        "a.view_2.png": encoded(2, 20, channels=1),
        "a.json": b"{}",
    }
    tar(tmp_path / "a.tar", files)
    manifest = shapes(tmp_path)
    assert manifest.views.tolist() == [2]
    found = pixels(manifest, "a")
    assert found.shape == (2, 20, 20, 3)
    assert np.array_equal(found[1], picture(2, 20, channels=1))
    assert_sound(manifest)


def test_a_flipped_byte_among_the_views_is_noticed(tmp_path):
    tar(tmp_path / "a.tar", {f"a.{v}.png": encoded(v) for v in range(3)})
    manifest = shapes(tmp_path)
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[512 + 40] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(DataError, match="other content than when it was packed"):
        pixels(manifest, "a")


def test_stacks_and_arrays(tmp_path):
    stack = np.concatenate([picture(v, 16) for v in range(5)])
    jpeg, array = io.BytesIO(), io.BytesIO()
    Image.fromarray(stack).save(jpeg, format="JPEG")
    np.save(array, stack.reshape(5, 16, 16, 3))
    tar(tmp_path / "a.tar", {"a.views.jpg": jpeg.getvalue(), "b.views.npy": array.getvalue()})
    manifest = shapes(tmp_path)
    assert manifest.views.tolist() == [5, 5]
    assert np.array_equal(pixels(manifest, "b"), stack.reshape(5, 16, 16, 3))
    assert_sound(manifest)


def labelled(root: Path, **texts: str) -> list[str | None]:
    """Labels of a sample with these members, indexed without class names."""
    tar(root / "a.tar", {"a.png": encoded(1), **{f"a.{k}": v.encode() for k, v in texts.items()}})
    return images(root).labels.tolist()


@pytest.mark.parametrize(
    ("texts", "label"),
    [
        ({"cls": "7"}, "7"),
        ({"cls": " chair\n"}, "chair"),
        ({"cls": "-1"}, None),
        ({"cls": ""}, None),
        ({"cls": "3", "json": '{"label": "bed"}'}, "bed"),
        ({"cls": "desk", "json": '{"label": "bed"}'}, "desk"),
        ({"json": '{"class": 4, "class_name": "sofa"}'}, "sofa"),
        ({"json": '{"class": 4}'}, "4"),
        ({"json": '{"label": null}'}, None),
        ({"json": "[1, 2]"}, None),
    ],
)
def test_labels(tmp_path, texts, label):
    assert labelled(tmp_path, **texts) == [label]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"cls": "-2"}, "has cls -2; a class is a name, or a number from 0"),
        ({"json": '{"label": 1.5}'}, "has json 'label' 1.5"),
        ({"json": '{"label": true}'}, "has json 'label' True"),
        ({"json": '{"label": '}, "has no readable json"),
    ],
)
def test_bad_labels(tmp_path, texts, message):
    with pytest.raises(DataError, match=r"a\.tar: sample 'a' ") as error:
        labelled(tmp_path, **texts)
    assert message in str(error.value)


def test_class_names(tmp_path):
    files = {}
    for i, said in enumerate([b"0", b"2", b"chair"]):
        files |= {f"{i}.png": encoded(i), f"{i}.cls": said}
    tar(tmp_path / "a.tar", files)
    names = tmp_path / "classes.txt"
    names.write_text("sofa\nbed\nchair\n\n")
    manifest = images(tmp_path, class_names=names)
    assert manifest.labels.tolist() == ["sofa", "chair", "chair"]
    assert manifest.classes == ("chair", "sofa")
    assert manifest.class_ids.tolist() == [1, 0, 0]
    assert_sound(manifest)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sofa\nbed\n", r"sample '1' is of class 2, and there are 2 class names"),
        ("sofa\nbed\nchairs\n", r"class 'chair', which is not .*did you mean 'chairs'"),
        ("sofa\n\nchair\n", r"classes\.txt: line 2 is empty"),
        ("sofa\nbed\nsofa\n", r"classes\.txt: line 3 repeats line 1"),
    ],
)
def test_bad_class_names(tmp_path, text, message):
    files = {}
    for i, said in enumerate([b"0", b"2", b"chair"]):
        files |= {f"{i}.png": encoded(i), f"{i}.cls": said}
    tar(tmp_path / "a.tar", files)
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        images(tmp_path, class_names=tmp_path / "classes.txt")
    assert not (tmp_path / MANIFEST_NAME).exists()


def test_add_unites_classes_and_keeps_the_rest(tmp_path):
    tar(tmp_path / "q/0.tar", {"1.png": encoded(1), "1.cls": b"sofa"})
    tar(tmp_path / "s/0.tar", {"2.v0.png": encoded(2), "2.v1.png": encoded(3), "2.cls": b"bed"})
    first = images(tmp_path, tars=["q/*.tar"], name="mine")
    both = shapes(tmp_path, tars=["s/*.tar"], add=True)
    assert both.classes == ("bed", "sofa")
    assert both.class_ids.tolist() == [1, 0]
    assert [shard.name for shard in both.shards] == ["q/0.tar", "s/0.tar"]
    assert both.keys == ["1", "2"]
    assert both.metadata["dataset"] == "mine"
    assert [one["stream"] for one in both.metadata["indexed"]] == ["image", "shape"]
    assert both.fingerprint != first.fingerprint
    assert np.array_equal(pixels(both, "2")[1], picture(3, 16))
    assert_sound(both)
    with pytest.raises(DataError, match=r"q/0\.tar: is in the manifest already"):
        images(tmp_path, tars=["q/*.tar"], add=True)
    with pytest.raises(DataError, match=r"already has a manifest\.parquet; pass --add"):
        images(tmp_path, tars=["q/*.tar"])
    with pytest.raises(DataError, match="the data set there is 'mine'"):
        images(tmp_path, tars=["q/*.tar"], add=True, name="yours")


def test_trained_on(tmp_path):
    """The loader reads pictures and views of foreign tars as it does its own."""
    queries, gallery = {}, {}
    for i in range(10):
        queries |= {f"{i}.jpg": encoded(i, kind="JPEG"), f"{i}.cls": str(i % 2).encode()}
        gallery |= {f"{i}.{v}.png": encoded(50 + 3 * i + v) for v in range(3)}
    tar(tmp_path / "queries.tar", queries)
    tar(tmp_path / "gallery.tar", gallery)
    images(tmp_path, tars=["queries.tar"])
    shapes(tmp_path, tars=["gallery.tar"], add=True)
    held = load_manifest(tmp_path)
    sources = {
        "source": StreamSource(held, held.select("image", "train"), held.classes, True, 16),
        "target": StreamSource(held, held.select("shape", "train"), held.classes, False, 16),
    }
    with open_loader(sources, batch=4, seed=0, steps=3) as loader:
        steps = [batches for _, batches in loader]
    assert len(steps) == 3
    assert steps[0]["source"].pixels.shape == (4, 3, 16, 16)
    assert steps[0]["target"].pixels.shape == (4, 3, 3, 16, 16)
    assert {int(label) for step in steps for label in step["source"].label} == {0, 1}


def test_added_to_a_packed_set(tmp_path):
    made = packed(tmp_path)
    root = Path(made.root)
    tar(root / "more.tar", {"photo-000.png": encoded(1), "photo-000.cls": b"class1"})
    both = index(root, stream="image", split="val", tars=["more.tar"], add=True)
    assert both.keys == [*made.keys, "more/photo-000"]
    assert both.classes == made.classes
    assert both.metadata["options"] == made.metadata["options"]
    assert_sound(both)


def test_one_key_in_two_tars_gets_the_tars_name(tmp_path):
    for name in "ab":
        tar(tmp_path / f"{name}.tar", {"0.png": encoded(ord(name)), "1.png": encoded(1)})
    manifest = images(tmp_path)
    assert manifest.keys == ["a/0", "a/1", "b/0", "b/1"]
    assert np.array_equal(pixels(manifest, "b/0"), picture(ord("b"), 16))


def test_the_result_does_not_depend_on_the_workers(tmp_path):
    for name in "cab":
        tar(tmp_path / f"{name}.tar", {f"{name}.png": encoded(ord(name)), f"{name}.cls": b"1"})
    images(tmp_path)
    one = (tmp_path / MANIFEST_NAME).read_bytes()
    (tmp_path / MANIFEST_NAME).unlink()
    images(tmp_path, run=in_processes(2))
    assert (tmp_path / MANIFEST_NAME).read_bytes() == one


def link(path: Path, kind: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)


def damaged(path: Path) -> None:
    tar(path, {f"{i}.png": encoded(i, 64) for i in range(4)})
    data = bytearray(path.read_bytes())
    second = data.index(b"1.png")
    data[second + 150] ^= 0xFF
    path.write_bytes(data)


def cut(path: Path) -> None:
    tar(path, {f"{i}.png": encoded(i, 64) for i in range(4)})
    path.write_bytes(path.read_bytes()[:9000])


def compressed(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))


BAD_TARS = {
    "symbolic link": (lambda path: link(path, tarfile.SYMTYPE), "member 'a.png' is a link"),
    "hard link": (lambda path: link(path, tarfile.LNKTYPE), "member 'a.png' is a link"),
    "device": (lambda path: link(path, tarfile.CHRTYPE), "member 'a.png' is a link or no plain"),
    "damaged header": (damaged, "damaged header at byte"),
    "cut": (cut, "not a plain, complete tar"),
    "compressed": (compressed, "unpack its compression"),
    "no tar": (lambda path: path.write_bytes(b"hello" * 300), "not a plain, complete tar"),
    "apart": (
        lambda path: tar(path, {"a.png": encoded(1), "b.png": encoded(2), "a.cls": b"1"}),
        "members of sample 'a' are not next to each other",
    ),
    "twice": (
        lambda path: tar(path, {"a.png": encoded(1), "a.PNG": encoded(2)}),
        "sample 'a' has .png twice",
    ),
    "no pixels": (
        lambda path: tar(path, {"a.txt": b"x", "a.v2.jpg": b"x"}),
        "sample 'a' has none of jpg, jpeg, png, webp, but txt, v2.jpg",
    ),
}


@pytest.mark.parametrize("name", BAD_TARS)
def test_bad_tars_are_named(tmp_path, name):
    write, message = BAD_TARS[name]
    write(tmp_path / "bad.tar")
    with pytest.raises(DataError, match=r"bad\.tar: ") as error:
        images(tmp_path)
    assert message in str(error.value)
    assert not (tmp_path / MANIFEST_NAME).exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.0.png": 1, "a.2.png": 2}, "sample 'a' has views 0, 2; there must be no gap"),
        ({"a.0.png": 1, "a.v0.png": 2}, "sample 'a' has views 0, 0"),
        ({"a.png": 1}, "has none of views.jpg, views.npy, v00.png, but png"),
        ({"a.views.jpg": 30}, "has no readable views.jpg"),
    ],
)
def test_bad_shapes_are_named(tmp_path, files, message):
    data = {name: b"x" if seed == 30 else encoded(seed) for name, seed in files.items()}
    tar(tmp_path / "a.tar", data)
    with pytest.raises(DataError, match=r"a\.tar: ") as error:
        shapes(tmp_path)
    assert message in str(error.value)


def test_stacks_that_are_no_square_tiles(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(picture(1, 20)[:, :15]).save(buffer, format="JPEG")
    tar(tmp_path / "a.tar", {"a.views.jpg": buffer.getvalue()})
    with pytest.raises(DataError, match="15×20 pixels, which are not square tiles"):
        shapes(tmp_path)


def test_bad_places(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        images(tmp_path / "nowhere")
    (tmp_path / "readme.txt").write_text("x")
    with pytest.raises(DataError, match=r"no file matches '\*\.tar'\. Found: 'readme\.txt'\."):
        images(tmp_path)
    for pattern in ("/etc/*.tar", "../*.tar"):
        with pytest.raises(DataError, match="stay inside"):
            images(tmp_path, tars=[pattern])
    with pytest.raises(DataError, match="--stream 'photo' is not one of image"):
        index(tmp_path, stream="photo", split="train")
    tar(tmp_path / "outside" / "a.tar", {"a.png": encoded(1)})
    (tmp_path / "set" / ".packing").mkdir(parents=True)
    (tmp_path / "set" / "a.tar").symlink_to(tmp_path / "outside" / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar: is a link out of the folder"):
        images(tmp_path / "set")
    (tmp_path / "set" / "a.tar").unlink()
    tar(tmp_path / "set" / ".packing" / "b.tar", {"a.png": encoded(1)})
    with pytest.raises(DataError, match="no file matches"):
        images(tmp_path / "set", tars=["**/*.tar"])
    tar(tmp_path / "set" / "empty.tar", {"readme": b"x"})
    with pytest.raises(DataError, match="not one sample in 1 tars"):
        images(tmp_path / "set")


@pytest.mark.parametrize(
    ("name", "suffix", "better"),
    [
        ("22.0/1.1.png", "1.png", "1_1.png"),
        ("a/IMG.2020.01.JPG", "2020.01.jpg", "IMG_2020_01.jpg"),
        ("v1.2.webp", "2.webp", "v1_2.webp"),
    ],
)
def test_a_dot_before_the_suffix_is_named_with_its_remedy(tmp_path, name, suffix, better):
    tar(tmp_path / "a.tar", {name: encoded(0), name.rpartition(".")[0] + ".cls": b"0"})
    with pytest.raises(DataError) as error:
        images(tmp_path)
    assert (
        f"webdataset takes {suffix} for the suffix; rename the members, for example to {better}"
        in str(error.value)
    )


def test_a_dot_before_the_suffix_of_views(tmp_path):
    tar(tmp_path / "a.tar", {"v1.2.views.npy": b""})
    with pytest.raises(DataError, match=r"takes 2\.views\.npy for the suffix; .* v1_2\.views\.npy"):
        shapes(tmp_path)
    tar(tmp_path / "a.tar", {"a.cls": b"0"})
    with pytest.raises(DataError, match=r"has none of jpg, .* but cls; choose other tars"):
        images(tmp_path)


def test_classes_in_one_unicode_form(tmp_path):
    composed, decomposed = "st\u00fchle", "stu\u0308hle"
    files = {"a.png": encoded(0), "a.cls": decomposed.encode()}
    files |= {"b.png": encoded(1), "b.json": json.dumps({"label": composed}).encode()}
    tar(tmp_path / "a.tar", files)
    assert images(tmp_path).classes == (composed,)
    (tmp_path / "manifest.parquet").unlink()
    (tmp_path / "names.txt").write_text(f"{decomposed}\n")
    assert images(tmp_path, class_names=tmp_path / "names.txt").classes == (composed,)
