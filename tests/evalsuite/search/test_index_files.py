"""Index files: what is written comes back; what does not belong is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evalsuite.search.index_files import read_description, read_index, write_index
from evalsuite.search.index_parameters import KINDS
from evalsuite.search.indexes import build_index
from evalsuite.vectors.embeddings import Embeddings, EvaluationError
from tests.evalsuite.search.test_indexes import clusters

SPACE: Any = {"features": "l2", "metric": "cosine"}


@pytest.fixture(scope="module")
def gallery():
    return clusters(800, "g", width=10)


@pytest.fixture
def folder(gallery, tmp_path):
    write_index(tmp_path / "ivf", build_index(gallery, "ivf", **SPACE), gallery)
    return tmp_path / "ivf"


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_index_answers_as_the_written_one(kind, gallery, tmp_path):
    queries = clusters(20, "q", width=10, seed=2)
    built = build_index(gallery, kind, **SPACE)
    path = write_index(tmp_path, built, gallery, about={"note": "ü"})
    read = read_index(tmp_path, gallery, **SPACE)
    expected, found = built.search(queries, 12), read.search(queries, 12)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.distances, expected.distances)
    assert (read.kind, read.parameters) == (kind, built.parameters)
    about = read_description(tmp_path)
    assert about == json.loads(path.read_text())
    assert (about["keys"], about["labels"]) == (gallery.keys, gallery.labels)
    assert about["note"] == "ü"


def test_a_new_index_replaces_the_old_one(folder, gallery):
    before = read_description(folder)
    other = build_index(gallery, "ivf", parameters={"seed": 9}, **SPACE)
    write_index(folder, other, gallery)
    after = read_description(folder)
    assert after["sha256"] != before["sha256"]
    assert sorted(file.name for file in folder.iterdir()) == [after["file"], "index.json"]
    assert read_index(folder, gallery, **SPACE).parameters["seed"] == 9


def test_an_interrupted_write_leaves_the_old_index(folder, gallery, monkeypatch):
    def full_disk(path, text):
        assert path.name == "index.json"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evalsuite.search.index_files.write_text_atomically", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_index(folder, build_index(gallery, "ivf", parameters={"seed": 9}, **SPACE), gallery)
    assert read_index(folder, gallery, **SPACE).parameters["seed"] == 0


def test_a_changed_file_never_reaches_faiss(folder, gallery, monkeypatch):
    monkeypatch.setattr(
        "evalsuite.search.index_files.restore_index", lambda *_, **__: pytest.fail("read it")
    )
    file = folder / read_description(folder)["file"]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), bytes(content[:100]), b""):
        file.write_bytes(damaged)
        with pytest.raises(EvaluationError, match=r"hash.*build the index again"):
            read_index(folder, gallery, **SPACE)
    file.unlink()
    with pytest.raises(EvaluationError, match=r"cannot be read.*build the index again"):
        read_index(folder, gallery, **SPACE)


def test_an_index_of_another_gallery_is_refused(folder, gallery):
    moved = gallery.vectors.copy()
    moved[3, 0] = np.nextafter(moved[3, 0], np.float32(9))
    keys, labels = [*gallery.keys[:-1], "other"], ["other", *gallery.labels[1:]]
    swapped = np.r_[1, 0, 2 : len(gallery)]
    others = [
        Embeddings(gallery.keys, gallery.labels, moved),
        Embeddings(keys, gallery.labels, gallery.vectors),
        Embeddings(gallery.keys, labels, gallery.vectors),
        Embeddings(gallery.keys[:-1], gallery.labels[:-1], gallery.vectors[:-1]),
        Embeddings(
            [gallery.keys[row] for row in swapped],
            [gallery.labels[row] for row in swapped],
            gallery.vectors[swapped],
        ),
    ]
    for other in others:
        with pytest.raises(EvaluationError, match=r"other embeddings.*build it again"):
            read_index(folder, other, **SPACE)
    read_index(folder, replace(gallery, metadata={"a": "b"}), **SPACE)


def test_an_index_with_other_options_is_refused(folder, gallery):
    with pytest.raises(EvaluationError, match=r"features='l2'.*build it again"):
        read_index(folder, gallery, features="raw", metric="cosine")
    with pytest.raises(EvaluationError, match=r"metric='cosine'.*build it again"):
        read_index(folder, gallery, features="l2", metric="euclidean")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "hnsw", "parameters": {}},
        {"kind": "flat", "parameters": {}},
        {"kind": "magic"},
        {"parameters": {"nlist": 3}},
        {"parameters": {"nlist": "3"}},
        {"parameters": None},
        {"format": 2},
        {"sha256": None},
        {"file": "../ivf/../../other"},
    ],
)
def test_a_description_that_does_not_fit_is_refused(change, folder, gallery):
    path = folder / "index.json"
    path.write_text(json.dumps({**read_description(folder), **change}))
    with pytest.raises(EvaluationError, match="again"):
        read_index(folder, gallery, **SPACE)


def test_no_index_and_no_json(tmp_path, gallery):
    with pytest.raises(EvaluationError, match="no index"):
        read_index(tmp_path, gallery, **SPACE)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(EvaluationError, match="not readable"):
        read_index(tmp_path, gallery, **SPACE)
