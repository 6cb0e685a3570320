"""Embeddings as folders of Parquet parts: whole or refused, resumable, read in pieces."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from evalsuite.vectors.embedding_parts import MANIFEST_NAME, Part, is_finished, open_parts
from evalsuite.vectors.embeddings import Embeddings, EvaluationError
from evalsuite.vectors.parts_writer import PartsWriter, default_part_rows
from evalsuite.vectors.reading import read_embeddings
from tests.evalsuite.embedding_folders import write_parts

TOTAL, ROWS, WIDTH = 23, 5, 3


def cloud(total: int = TOTAL) -> Embeddings:
    random = np.random.default_rng(3)
    return Embeddings(
        [f"item-{row}" for row in range(total)],
        [f"class-{row % 4}" for row in range(total)],
        random.normal(size=(total, WIDTH)).astype(np.float32),
    )


def sliced(embeddings: Embeddings, rows: range) -> Embeddings:
    part = slice(rows.start, rows.stop)
    return Embeddings(embeddings.keys[part], embeddings.labels[part], embeddings.vectors[part])


def writer(folder: Path, **options: object) -> PartsWriter:
    chosen = {"fingerprint": "f", "total": TOTAL, "part_rows": ROWS, **options}
    return PartsWriter(folder, **chosen)  # pyright: ignore[reportArgumentType]


def written(folder: Path, number: int, **options: object) -> Part:
    to = writer(folder, **options)
    return to.write(number, sliced(cloud(), to.rows(number)))


def finals(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path):
    before = cloud()
    parts = write_parts(tmp_path / "e", before, fingerprint="f", part_rows=ROWS)
    names = [f"part-{first:012d}.parquet" for first in range(0, TOTAL, ROWS)]
    assert finals(tmp_path / "e") == [MANIFEST_NAME, *names]
    opened = open_parts(tmp_path / "e")
    assert opened == parts
    assert (len(opened), opened.width, opened.fingerprint) == (TOTAL, WIDTH, "f")
    assert (opened.keys, opened.labels) == (before.keys, before.labels)
    for after in (opened.read(), read_embeddings(tmp_path / "e")):
        assert (after.keys, after.labels) == (before.keys, before.labels)
        assert after.vectors.tobytes() == before.vectors.tobytes()
        assert after.metadata == {"fingerprint": "f", "dtype": "float32"}
    third = pq.read_table(tmp_path / "e" / names[2])
    assert third.column_names == ["position", "key", "label", "embedding"]
    assert third.column("position").to_pylist() == [10, 11, 12, 13, 14]
    assert str(third.schema.field("embedding").type).startswith("fixed_size_list<")
    manifest = json.loads((tmp_path / "e" / MANIFEST_NAME).read_text())
    assert (manifest["rows"], manifest["width"], manifest["dtype"]) == (TOTAL, WIDTH, "float32")
    # A part by itself is a file of embeddings like any other.
    assert read_embeddings(tmp_path / "e" / names[4]).keys == before.keys[20:]


def test_rows_come_from_the_parts_that_hold_them_alone(tmp_path):
    parts = write_parts(tmp_path, cloud(), part_rows=ROWS)
    (tmp_path / parts.parts[1].file).unlink()
    rows = np.array([22, 0, 12, 12, 3])
    found = parts.vectors(rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, cloud().vectors[rows])
    assert parts.vectors([]).shape == (0, WIDTH)
    with pytest.raises(EvaluationError, match=r"part-000000000005.parquet: no such file; extract"):
        parts.vectors([4, 5])
    for row in (-1, TOTAL):
        with pytest.raises(EvaluationError, match=f"has rows 0 to 22, no {row}"):
            parts.vectors([row])


CHILD = """
import os, sys
from tests.evalsuite.vectors.test_embedding_parts import Path, written, writer
folder = Path(sys.argv[1])
writer(folder).begin()
for number in (0, 3):
    written(folder, number)
import evalsuite.atomic
evalsuite.atomic.os.replace = lambda *names: os.kill(os.getpid(), 9)
written(folder, 1)
"""


def test_a_writer_killed_within_a_part_leaves_the_others(tmp_path):
    folder = tmp_path / "e"
    done = subprocess.run([sys.executable, "-c", CHILD, str(folder)], cwd=Path.cwd(), check=False)
    assert done.returncode == -9
    assert any(name.startswith(".part-") for name in finals(folder))
    assert not is_finished(folder)
    with pytest.raises(EvaluationError, match=r"e: unfinished \(no embeddings.json\); extract"):
        read_embeddings(folder)

    again = writer(folder)
    kept = again.begin()
    assert sorted(kept) == [0, 3]
    made = [written(folder, number) for number in (4, 2, 1)]
    (folder / ".part-000000000010.parquet.x").write_text("of a worker killed since")
    found = again.finish([*made, *kept.values()])
    assert found.read().vectors.tobytes() == cloud().vectors.tobytes()
    assert not any(name.startswith(".") for name in finals(folder))
    assert sorted(writer(folder).begin()) == [0, 1, 2, 3, 4]
    assert is_finished(folder)


@pytest.mark.parametrize("damage", ["cut", "flipped", "rewritten", "moved", "gone"])
def test_a_damaged_part_is_refused_and_made_again(tmp_path, damage):
    parts = write_parts(tmp_path, cloud(), fingerprint="f", part_rows=ROWS)
    path = tmp_path / parts.parts[1].file
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-9])
    elif damage == "flipped":  # a bit of a vector, which no reader of Parquet would notice
        place = content.index(cloud().vectors[7].tobytes())
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    elif damage == "rewritten":  # the same rows by another program
        pq.write_table(pq.read_table(path), path, compression="zstd")
    elif damage == "moved":
        path.write_bytes((tmp_path / parts.parts[2].file).read_bytes())
    else:
        path.unlink()
    told = "no such file" if damage == "gone" else "torn or altered"
    with pytest.raises(EvaluationError, match=f"part-000000000005.parquet: {told}.*extract these"):
        read_embeddings(tmp_path)

    again = writer(tmp_path)
    kept = again.begin()
    # Whole content under another encoding is kept, the manifest is renewed.
    assert sorted(kept) == ([0, 1, 2, 3, 4] if damage == "rewritten" else [0, 2, 3, 4])
    assert not is_finished(tmp_path)
    if 1 not in kept:
        kept[1] = written(tmp_path, 1)
        assert path.read_bytes() == content
    again.finish(kept.values())
    assert read_embeddings(tmp_path).vectors.tobytes() == cloud().vectors.tobytes()


@pytest.mark.parametrize(
    "other", [{"fingerprint": "g"}, {"dtype": "float16"}, {"part_rows": 7}, {"total": 22}]
)
def test_parts_of_other_embeddings_are_removed_the_manifest_first(tmp_path, other, monkeypatch):
    write_parts(tmp_path, cloud(), fingerprint="f", part_rows=ROWS)
    (tmp_path / "part-00000.parquet").write_text("not ours")
    removed: list[str] = []
    unlink = Path.unlink

    def noted(path: Path, missing_ok: bool = False) -> None:
        removed.append(path.name)
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    assert writer(tmp_path, **other).begin() == {}
    assert removed[0] == MANIFEST_NAME
    assert finals(tmp_path) == ["part-00000.parquet"]


def test_a_part_of_another_fingerprint_is_not_read_for_its_keys(tmp_path):
    """As when two commands with different checkpoints write into one folder."""
    parts = write_parts(tmp_path, cloud(), fingerprint="f", part_rows=ROWS)
    written(tmp_path, 2, fingerprint="g")
    with pytest.raises(EvaluationError, match=r"part-000000000010.parquet: torn or altered"):
        _ = open_parts(tmp_path).keys
    assert parts.keys == cloud().keys  # read when they were written


def test_half_precision(tmp_path):
    parts = write_parts(tmp_path / "half", cloud(), dtype="float16", part_rows=ROWS)
    found = read_embeddings(tmp_path / "half")
    expected = cloud().vectors.astype(np.float16).astype(np.float32)
    assert found.vectors.dtype == np.float32
    np.testing.assert_array_equal(found.vectors, expected)
    np.testing.assert_array_equal(parts.vectors([9]), expected[[9]])
    assert parts.metadata["dtype"] == "float16"

    large = cloud()
    large.vectors[8, 1] = -70000.0
    with pytest.raises(EvaluationError, match=r"'item-8' .* 70000, .*float16.*dtype float32"):
        write_parts(tmp_path / "large", large, dtype="float16", part_rows=ROWS)
    assert not is_finished(tmp_path / "large")
    with pytest.raises(EvaluationError, match="dtype='float8': expected one of float32, float16"):
        writer(tmp_path, dtype="float8")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_nan_and_infinity_survive(tmp_path, dtype):
    spoiled = cloud()
    spoiled.vectors[4] = [np.nan, np.inf, -np.inf]
    write_parts(tmp_path, spoiled, dtype=dtype, part_rows=ROWS)
    kept = read_embeddings(tmp_path, non_finite="keep")
    np.testing.assert_array_equal(kept.vectors[4], spoiled.vectors[4])
    with pytest.raises(EvaluationError, match=r"1 rows hold NaN or Inf: 'item-4'.*nan_policy"):
        read_embeddings(tmp_path)


def test_holes_and_duplicates_are_named(tmp_path):
    to = writer(tmp_path)
    parts = [written(tmp_path, number) for number in range(len(to))]
    for wrong, told in (
        (parts[:1] + parts[2:], "rows 5 to 9 are missing"),
        (parts[:4], "rows 20 to 22 are missing"),
        ([], "rows 0 to 22 are missing"),
        ([*parts, parts[3]], "rows 15 to 19 are there twice"),
        ([replace(parts[0], width=4), *parts[1:]], "two widths, 4 in .* and 3 in"),
    ):
        with pytest.raises(EvaluationError, match=told):
            to.finish(wrong)
    assert not is_finished(tmp_path)

    to.finish(parts)
    manifest = tmp_path / MANIFEST_NAME
    content = json.loads(manifest.read_text())
    del content["parts"][1]
    manifest.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match="rows 5 to 9 are missing"):
        open_parts(tmp_path)

    keys = cloud().keys
    keys[2] = keys[11]
    repeated = Embeddings(keys[:5], cloud().labels[:5], cloud().vectors[:5])
    parts[0] = to.write(0, repeated)
    with pytest.raises(EvaluationError, match="duplicate key 'item-11' in rows 2 and 11"):
        to.finish(parts)
    with pytest.raises(EvaluationError, match="part 4 holds rows 20 to 22, got 5 embeddings"):
        to.write(4, repeated)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "x"}', '{"format": 1, "parts": 2}'])
def test_a_manifest_that_is_none(tmp_path, text):
    write_parts(tmp_path / "e", cloud(), part_rows=ROWS)
    (tmp_path / "e" / MANIFEST_NAME).write_text(text)
    with pytest.raises(EvaluationError, match=r"e/embeddings.json: not a whole manifest"):
        open_parts(tmp_path / "e")
    with pytest.raises(EvaluationError, match=r"absent: holds no embeddings"):
        open_parts(tmp_path / "absent")


@pytest.mark.parametrize(
    ("total", "batch", "rows"),
    [(1, 1, 1), (100, 64, 64), (10_500, 64, 64), (1_000_000, 64, 3_968), (10**9, 64, 16_384)],
)
def test_parts_are_whole_batches_and_not_too_many(total, batch, rows):
    assert default_part_rows(total, batch=batch) == rows
    to = PartsWriter(Path("e"), fingerprint="f", total=total, part_rows=rows)
    assert to.rows(len(to) - 1).stop == total


def test_parts_keep_instances_where_they_have_some(tmp_path):
    names = [f"object-{row}" if row >= ROWS else "" for row in range(TOTAL)]
    named = replace(cloud(), instances=names)
    write_parts(tmp_path / "e", named, fingerprint="f", part_rows=ROWS)
    write_parts(tmp_path / "plain", cloud(), fingerprint="f", part_rows=ROWS)
    opened = open_parts(tmp_path / "e")
    assert opened.instances == opened.read().instances == names
    assert open_parts(tmp_path / "plain").instances == [""] * TOTAL
    first, second = finals(tmp_path / "e")[1:3]
    # A part without instances has the bytes that it had before there were any.
    assert (tmp_path / "e" / first).read_bytes() == (tmp_path / "plain" / first).read_bytes()
    assert "instance" in pq.read_schema(tmp_path / "e" / second).names
    assert writer(tmp_path / "e").begin().keys() == set(range(5))
    table = pq.read_table(tmp_path / "e" / second)
    at = table.column_names.index("instance")
    changed = table.set_column(at, "instance", [["other"] * ROWS])
    pq.write_table(changed, tmp_path / "e" / second)  # the digest is that of other instances
    assert writer(tmp_path / "e").whole(1) is None
