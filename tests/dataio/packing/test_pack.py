import dataclasses
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dataio.packing.records_to_shards import pack
from dataio.parallel import in_threads
from dataio.records import DataError, Record
from dataio.shards.decode import decode_image, decode_views
from dataio.shards.manifest import MANIFEST_NAME, Manifest
from dataio.shards.opening import load_manifest
from dataio.shards.reading import ShardReader, read_sample
from tests.dataio.packed import packed, picture, records


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Manifest, Path]:
    folder = tmp_path_factory.mktemp("pack")
    return packed(folder), folder / "raw"


def sample(manifest: Manifest, key: str) -> dict[str, bytes]:
    reader = ShardReader(manifest.root, manifest.shards)
    return read_sample(manifest, manifest.keys.index(key), reader=reader)


def image_record(path: Path, pixels: np.ndarray, key: str = "one", **changes) -> Record:
    Image.fromarray(pixels).save(path)
    fields = {"stream": "image", "split": "train", "label": "a", "image": path, **changes}
    return Record(key, **fields)


def test_shards_are_named_sized_and_adjacent(made):
    manifest, _ = made
    names = [shard.name for shard in manifest.shards]
    for group in ("image-train", "shape-train", "shape-test"):
        numbered = [n for n in names if n.startswith(group)]
        assert numbered == [f"{group}-{i:06d}.tar" for i in range(len(numbered))] != []
        names = [n for n in names if n not in numbered]
    assert names == []
    assert sum(shard.samples for shard in manifest.shards) == len(manifest) == 35
    assert len(manifest.shards) > 4
    for shard in manifest.shards:
        path = Path(manifest.root) / shard.name
        assert path.stat().st_size == shard.size_bytes
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        keys = [m.name.split(".")[0] for m in members]
        assert len([k for i, k in enumerate(keys) if i == 0 or keys[i - 1] != k]) == shard.samples
        assert all(m.mtime == 0 and m.uid == 0 for m in members)
        assert sum(512 + -(-m.size // 512) * 512 for m in members) <= 12_000


def test_images_keep_their_bytes(made):
    manifest, raw = made
    assert sample(manifest, "photo-001")["jpg"] == (raw / "photo1.jpg").read_bytes()
    assert sample(manifest, "photo-002")["png"] == (raw / "photo2.png").read_bytes()


def test_grey_views_have_one_channel(made):
    manifest, _ = made
    views = decode_views(sample(manifest, "shape-004")["views.jpg"], key="k", views=5)
    assert views.shape == (5, 32, 32, 1)
    expected = np.stack([picture(1080 + v, channels=1)[:, :, :1] for v in range(5)])
    assert np.abs(views.astype(int) - expected).max() < 25
    assert manifest.views[manifest.keys.index("shape-004")] == 5


def test_description(made):
    manifest, _ = made
    about = json.loads(sample(manifest, "shape-003")["json"])
    assert about["extra"] == {"number": 3}
    assert about["source_path"] == "shape3"
    assert about["content_sha256"] in manifest.content_sha256


def test_same_input_same_bytes_whatever_the_order(made, tmp_path):
    manifest, raw = made
    settings = {"dataset": "tiny", "shard_size_bytes": 12_000}
    shuffled = sorted(records(raw), key=lambda r: r.key[::-1])
    again = pack(shuffled, tmp_path / "again", run=in_threads(1), **settings)
    assert again.fingerprint == manifest.fingerprint
    for name in [*(shard.name for shard in manifest.shards), MANIFEST_NAME]:
        assert (tmp_path / "again" / name).read_bytes() == (Path(manifest.root) / name).read_bytes()
    other = pack(records(raw), tmp_path / "other", seed=1, **settings)
    assert other.keys != manifest.keys
    assert sorted(other.keys) == sorted(manifest.keys)


def test_every_shard_is_a_fair_sample(made):
    manifest, _ = made
    rows = manifest.select("image", "train")
    assert [manifest.keys[r] for r in rows] != sorted(manifest.keys[r] for r in rows)
    first = rows[manifest.shard_ids[rows] == 0]
    assert len(set(manifest.labels[first])) == 3


def test_coloured_views_have_three_channels(tmp_path):
    paths = []
    for v in range(3):
        paths.append(tmp_path / f"{v}.png")
        Image.fromarray(picture(v, 20, channels=3 if v == 1 else 1)).save(paths[-1])
    record = Record("s", "shape", "train", None, views=tuple(paths))
    manifest = pack([record], tmp_path / "set", dataset="d")
    views = decode_views(sample(manifest, "s")["views.jpg"], key="k", views=3)
    assert views.shape == (3, 32, 32, 3)  # 20 rounded up to a multiple of 16
    assert "cls" not in sample(manifest, "s")
    assert manifest.class_ids.tolist() == [-1]
    assert load_manifest(tmp_path / "set").labels.tolist() == [None]


def test_lossless_views(made, tmp_path):
    _, raw = made
    shape = next(r for r in records(raw) if r.key == "shape-002")
    manifest = pack([shape], tmp_path / "set", dataset="d", views="npy")
    array = np.load(io.BytesIO(sample(manifest, "shape-002")["views.npy"]), allow_pickle=False)
    expected = np.stack([picture(1040 + v, channels=1)[:, :, :1] for v in range(5)])
    assert np.array_equal(array, expected)


def test_image_size_shrinks_images_and_sets_tiles(tmp_path):
    tall = image_record(tmp_path / "tall.jpg", picture(1, 80)[:, :40])
    small = image_record(tmp_path / "small.png", picture(1, 10), key="small")
    view = tmp_path / "view.png"
    Image.fromarray(picture(2, 50)).save(view)
    shape = Record("shape", "shape", "train", "a", views=(view, view))
    manifest = pack([tall, small, shape], tmp_path / "set", dataset="d", image_size=32)
    assert decode_image(sample(manifest, "one")["jpg"], key="k").shape == (64, 32, 3)
    assert sample(manifest, "small")["png"] == (tmp_path / "small.png").read_bytes()
    stack = decode_views(sample(manifest, "shape")["views.jpg"], key="k", views=2)
    assert stack.shape == (2, 32, 32, 3)
    with pytest.raises(DataError, match="use 48 or views='npy'"):
        pack([shape], tmp_path / "bad", dataset="d", image_size=40)


def test_other_formats_become_png_and_wrong_names_do_not_matter(tmp_path):
    pixels = picture(4, 16)
    bitmap = image_record(tmp_path / "a.bmp", pixels, key="bitmap")
    Image.fromarray(pixels).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.JPEG")
    named = Record("named", "image", "train", "a", image=tmp_path / "b.JPEG")
    manifest = pack([bitmap, named], tmp_path / "set", dataset="d")
    for key in ("bitmap", "named"):
        assert np.array_equal(decode_image(sample(manifest, key)["png"], key="k"), pixels)


def test_meshes_go_through_render(tmp_path):
    record = Record("m", "shape", "train", "a", mesh=tmp_path / "m.off")
    with pytest.raises(DataError, match=r"m\.off.*render="):
        pack([record], tmp_path / "set", dataset="d")
    tiles = np.stack([picture(v, 16, channels=1)[:, :, 0] for v in range(4)])
    manifest = pack(
        [record], tmp_path / "set", dataset="d", render=lambda record: tiles, views="npy"
    )
    array = np.load(io.BytesIO(sample(manifest, "m")["views.npy"]))
    assert np.array_equal(array[..., 0], tiles)
    with pytest.raises(DataError, match="expected uint8"):
        pack([record], tmp_path / "x", dataset="d", render=lambda record: tiles / 255)


def test_progress(made, tmp_path):
    _, raw = made
    seen: list[tuple[int, int]] = []
    pack(records(raw), tmp_path / "set", dataset="d", progress=lambda *counts: seen.append(counts))
    assert seen == [(i + 1, 35) for i in range(35)]


def test_no_records(tmp_path):
    with pytest.raises(DataError, match="no records"):
        pack([], tmp_path / "set", dataset="d")
    assert not (tmp_path / "set").exists()


def test_a_key_used_twice_names_both_sources(tmp_path):
    first = image_record(tmp_path / "a.png", picture(1), source_path="x/a.png")
    second = image_record(tmp_path / "b.png", picture(2), source_path="y/b.png")
    with pytest.raises(DataError, match=r"'one' is used twice: by x/a\.png and by y/b\.png"):
        pack([first, second], tmp_path / "set", dataset="d")


@pytest.mark.parametrize("damage", ["truncated", "text", "missing"])
def test_a_broken_file_is_named_and_nothing_is_left(tmp_path, damage):
    good = [image_record(tmp_path / f"good{i}.png", picture(i), key=f"good{i}") for i in range(20)]
    bad = image_record(tmp_path / "bad.jpg", picture(1), key="bad")
    data = (tmp_path / "bad.jpg").read_bytes()
    if damage == "missing":
        (tmp_path / "bad.jpg").unlink()
    else:
        (tmp_path / "bad.jpg").write_bytes(data[:-300] if damage == "truncated" else b"hello")
    out = tmp_path / "set"
    with pytest.raises(DataError, match=r"bad\.jpg"):
        pack([*good, bad], out, dataset="d")
    assert list(out.iterdir()) == []
    with pytest.raises(DataError, match="not a packed data set"):
        load_manifest(out)


def test_packing_again_is_harmless_and_another_set_is_refused(made):
    manifest, raw = made
    before = times(Path(manifest.root))
    again = packed(raw.parent)
    assert again.fingerprint == manifest.fingerprint
    with pytest.raises(DataError, match="holds data set 'tiny'"):
        packed(raw.parent, dataset="other")
    with pytest.raises(DataError, match="another version"):
        packed(raw.parent, seed=9)
    assert times(Path(manifest.root)) == before


def times(folder: Path) -> dict[str, int]:
    """When each file of the data set was written; `.inputs` follows its sources."""
    return {p.name: p.stat().st_mtime_ns for p in folder.iterdir() if p.name != ".inputs"}


def test_shards_of_an_interrupted_pack_are_replaced(tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    (out / "image-train-000000.tar").write_bytes(b"half")
    (out / "image-train-000007.tar").write_bytes(b"stale")
    (out / "notes.txt").write_text("mine")
    record = image_record(tmp_path / "a.png", picture(1))
    pack([record], out, dataset="d")
    assert {p.name for p in out.iterdir()} == {
        "image-train-000000.tar",
        MANIFEST_NAME,
        ".inputs",
        "notes.txt",
    }
    load_manifest(out)


def test_extra_must_be_json(tmp_path):
    record = image_record(tmp_path / "a.png", picture(1), extra={"bad": object()})
    with pytest.raises(DataError, match=r"one.*extra"):
        pack([record], tmp_path / "set", dataset="d")


@pytest.mark.parametrize(
    "options", [{"views": "tar"}, {"image_size": 0}, {"shard_size_bytes": 0}], ids=str
)
def test_bad_options(tmp_path, options):
    record = image_record(tmp_path / "a.png", picture(1))
    with pytest.raises(DataError, match=next(iter(options))):
        pack([record], tmp_path / "set", dataset="d", **options)
    long = dataclasses.replace(record, key="k" * 95)
    with pytest.raises(DataError, match="longer than"):
        pack([long], tmp_path / "set", dataset="d")


def test_packing_again_adds_origins_to_an_older_manifest(tmp_path):
    manifest = packed(tmp_path)
    path = tmp_path / "set" / "manifest.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["origin"]), path)
    assert not any(load_manifest(tmp_path / "set").origins)
    assert packed(tmp_path).origins == manifest.origins
    again = load_manifest(tmp_path / "set")
    assert again.origins == manifest.origins
    assert again.fingerprint == manifest.fingerprint


def test_packing_again_adds_instances_to_an_older_manifest_and_no_other_byte(tmp_path):
    record = image_record(tmp_path / "a.png", picture(1))
    before = pack([record], tmp_path / "set", dataset="d")
    files = {path: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    named = dataclasses.replace(record, instance="chair/oslo")
    after = pack([named], tmp_path / "set", dataset="d")
    assert (before.instances, after.instances) == ([""], ["chair/oslo"])
    assert load_manifest(tmp_path / "set").instances == ["chair/oslo"]
    assert after.fingerprint == before.fingerprint
    changed = [path.name for path, held in files.items() if path.read_bytes() != held]
    assert changed == ["manifest.parquet"]
    fresh = pack([named], tmp_path / "fresh", dataset="d")
    assert fresh.instances == ["chair/oslo"]
    assert (fresh.fingerprint, fresh.shards) == (before.fingerprint, before.shards)
