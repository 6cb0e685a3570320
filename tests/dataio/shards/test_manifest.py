import dataclasses
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from dataio.records import DataError
from dataio.shards.manifest import MANIFEST_NAME, Manifest, write_manifest
from dataio.shards.opening import load_manifest
from tests.dataio.packed import packed


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("manifest"))


@pytest.fixture
def copy(manifest, tmp_path):
    return shutil.copytree(manifest.root, tmp_path / "copy")


def test_round_trip(manifest):
    loaded = load_manifest(manifest.root)
    for field in dataclasses.fields(Manifest):
        before, after = getattr(manifest, field.name), getattr(loaded, field.name)
        if isinstance(before, np.ndarray):
            assert before.tolist() == after.tolist(), field.name
            assert before.dtype.kind == after.dtype.kind
        else:
            assert before == after, field.name
    assert loaded.classes == ("class0", "class1", "class2")
    assert loaded.class_ids.dtype == np.int64


def test_select_gives_ascending_rows(manifest):
    rows = manifest.select("shape", "test")
    assert (np.diff(rows) > 0).all()
    assert set(manifest.streams[rows]) == {"shape"}
    assert set(manifest.splits[rows]) == {"test"}
    assert len(rows) == 3


def test_select_names_what_there_is(manifest):
    with pytest.raises(DataError, match=r"sketch/train.*image/train \(22\).*shape/test \(3\)"):
        manifest.select("sketch", "train")


def test_fingerprint_does_not_depend_on_the_place(manifest, copy):
    assert load_manifest(copy).fingerprint == manifest.fingerprint


@pytest.mark.parametrize("column", ["keys", "labels", "content_sha256", "splits"])
def test_fingerprint_depends_on_content(manifest, column):
    values = getattr(manifest, column).copy()
    other = next(i for i in range(len(values)) if values[i] != values[0])
    values[0], values[other] = values[other], values[0]
    changed = dataclasses.replace(manifest, **{column: values}, fingerprint="")
    assert changed.fingerprint != manifest.fingerprint


def test_no_manifest(tmp_path):
    with pytest.raises(DataError, match="not a packed data set"):
        load_manifest(tmp_path)


def test_unreadable_manifest(copy):
    path = copy / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="not a readable manifest"):
        load_manifest(copy)


def test_another_schema_version(copy):
    table = pq.read_table(copy / MANIFEST_NAME)
    header = json.loads(table.schema.metadata[b"img2shape"])
    header["schema_version"] = 99
    pq.write_table(
        table.replace_schema_metadata({b"img2shape": json.dumps(header)}), copy / MANIFEST_NAME
    )
    with pytest.raises(DataError, match="schema version 99"):
        load_manifest(copy)


def test_some_other_parquet_file(copy):
    table = pq.read_table(copy / MANIFEST_NAME)
    pq.write_table(table.replace_schema_metadata({}), copy / MANIFEST_NAME)
    with pytest.raises(DataError, match="not a readable manifest"):
        load_manifest(copy)


def test_edited_rows_are_noticed(copy):
    table = pq.read_table(copy / MANIFEST_NAME)
    pq.write_table(table.slice(1), copy / MANIFEST_NAME)
    with pytest.raises(DataError, match="fingerprint"):
        load_manifest(copy)


def test_samples_keep_where_they_came_from(manifest):
    origin_of = dict(zip(manifest.keys, manifest.origins, strict=True))
    assert origin_of["photo-003"] == "photo3.jpg"
    assert origin_of["shape-012"] == "shape12"


def test_instances_are_kept_and_decide_nothing(manifest, copy):
    names = [f"object-{row % 5}" if row % 3 else "" for row in range(len(manifest))]
    named = dataclasses.replace(manifest, root=str(copy), instances=names, fingerprint="")
    assert named.fingerprint == manifest.fingerprint
    write_manifest(named)
    loaded = load_manifest(copy)
    assert (loaded.instances, loaded.fingerprint) == (names, manifest.fingerprint)


@pytest.mark.parametrize("lacking", [["instance"], ["origin", "instance"]], ids=str)
def test_a_manifest_without_later_columns_is_read(manifest, copy, lacking):
    """As earlier versions wrote it."""
    table = pq.read_table(copy / MANIFEST_NAME)
    pq.write_table(table.drop_columns(lacking), copy / MANIFEST_NAME)
    loaded = load_manifest(copy)
    nothing = [""] * len(manifest)
    assert loaded.instances == nothing
    assert loaded.origins == (nothing if "origin" in lacking else manifest.origins)
    assert (loaded.fingerprint, loaded.keys) == (manifest.fingerprint, manifest.keys)


def test_missing_shard(manifest, copy):
    (copy / manifest.shards[1].name).unlink()
    with pytest.raises(DataError, match=rf"{manifest.shards[1].name}: shard is missing"):
        load_manifest(copy)


def test_shard_of_another_size(manifest, copy):
    path = copy / manifest.shards[0].name
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match=rf"{path.name}: shard has \d+ bytes.*pack again"):
        load_manifest(copy)


def test_writing_leaves_no_temporary_file(manifest, tmp_path):
    path = write_manifest(dataclasses.replace(manifest, root=str(tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == [MANIFEST_NAME] == [path.name]
