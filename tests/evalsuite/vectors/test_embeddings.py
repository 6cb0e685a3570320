"""Parquet in and out: every list type, every kind of damage, whole files only."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evalsuite import Embeddings, EvaluationError, read_embeddings, write_embeddings
from evalsuite.atomic import write_atomically

VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
KEYS, LABELS = ["k0", "k1", "k2", "k3"], ["chair", "chair", "-1", "été"]


def save(path, embedding, *, key=KEYS, label=LABELS):
    columns = {"key": key, "label": label, "embedding": embedding}
    kept = {name: column for name, column in columns.items() if column is not None}
    pq.write_table(pa.table(kept), path)
    return path


def test_round_trip_keeps_bits_order_and_metadata(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((50, 7)).astype(np.float32)
    before = Embeddings([f"é{i}" for i in range(50)], ["x y"] * 50, vectors, {"run": "α", "n": "1"})
    write_embeddings(tmp_path / "new" / "e.parquet", before)
    after = read_embeddings(tmp_path / "new" / "e.parquet")
    assert (after.keys, after.labels, after.metadata) == (
        before.keys,
        before.labels,
        before.metadata,
    )
    assert after.vectors.dtype == np.float32
    assert after.vectors.tobytes() == vectors.tobytes()
    assert pq.read_schema(tmp_path / "new" / "e.parquet").field("embedding").type == pa.list_(
        pa.float32(), 7
    )


def test_labels_come_in_one_unicode_form(tmp_path):
    names = ["chair", "chair", "St\u00fchle", "Stu\u0308hle"]
    path = save(tmp_path / "e.parquet", pa.array(VECTORS.tolist()), label=names)
    assert read_embeddings(path).labels == ["chair", "chair", "St\u00fchle", "St\u00fchle"]


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.list_(pa.float32()),
        pa.list_(pa.float16()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float64(), 3),
        pa.list_(pa.float16(), 3),
    ],
    ids=str,
)
def test_every_list_type_is_read(tmp_path, kind):
    rows = [[kind.value_type.to_pandas_dtype()(x) for x in row] for row in VECTORS]
    path = save(tmp_path / "e.parquet", pa.array(rows, type=kind))
    found = read_embeddings(path)
    np.testing.assert_array_equal(found.vectors, VECTORS)
    assert found.vectors.dtype == np.float32
    assert (found.keys, found.labels) == (KEYS, LABELS)


def test_integers_dictionaries_row_groups_and_other_columns_are_read(tmp_path):
    table = pa.table(
        {
            "split": ["test"] * 4,
            "embedding": pa.array([[1, 2], [3, 4], [5, 6], [7, 8]], type=pa.list_(pa.int64())),
            "label": pa.array([3, -1, 3, 1000]),
            "key": pa.array(KEYS).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "e.parquet", row_group_size=1)
    found = read_embeddings(tmp_path / "e.parquet")
    np.testing.assert_array_equal(found.vectors, [[1, 2], [3, 4], [5, 6], [7, 8]])
    assert found.labels == ["3", "-1", "3", "1000"]
    assert found.keys == KEYS


def test_a_fixed_shape_tensor_column_is_read(tmp_path):
    column = pa.FixedShapeTensorArray.from_numpy_ndarray(VECTORS)
    np.testing.assert_array_equal(
        read_embeddings(save(tmp_path / "e.parquet", column)).vectors, VECTORS
    )


NAN_ROW = VECTORS.copy()
NAN_ROW[2, 1] = np.nan
INF_ROW = VECTORS.copy()
INF_ROW[0, 0] = -np.inf
HUGE_ROW = VECTORS.astype(np.float64)
HUGE_ROW[3, 2] = 1e300


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": None}, ["'key'", "missing", "label"]),
        ({"label": None}, ["'label'", "missing"]),
        ({"embedding": None}, ["'embedding'", "missing"]),
        ({"embedding": [[1.0], [1.0], [1.0, 2.0], [1.0]]}, ["'k0' has 1", "'k2' has 2"]),
        ({"embedding": NAN_ROW.tolist()}, ["'k2'", "nan_policy"]),
        ({"embedding": INF_ROW.tolist()}, ["'k0'", "Inf"]),
        ({"embedding": HUGE_ROW.tolist()}, ["'k3'", "Inf"]),
        ({"embedding": [[1.0], [None], [1.0], [1.0]]}, ["'k1'", "NaN"]),
        ({"embedding": [[1.0], None, [1.0], [1.0]]}, ["'k1'", "no embedding"]),
        ({"embedding": [[], [], [], []]}, ["embedding"]),
        ({"embedding": [1.0, 2.0, 3.0, 4.0]}, ["double", "list<float>"]),
        ({"embedding": [["a"], ["b"], ["c"], ["d"]]}, ["list<float>"]),
        ({"label": ["a", None, "b", None]}, ["'label'", "'k1'", "'k3'"]),
        ({"key": ["a", "b", None, "c"]}, ["'key'", "[2]"]),
        ({"key": ["a", "b", "a", "c"]}, ["duplicate", "'a'"]),
        ({"key": [], "label": [], "embedding": []}, ["no rows"]),
    ],
    ids=lambda value: None,
)
def test_damage_is_named_with_file_and_rows(tmp_path, change, words):
    columns = {"key": KEYS, "label": LABELS, "embedding": VECTORS.tolist(), **change}
    embedding = columns.pop("embedding")
    path = save(tmp_path / "broken.parquet", embedding, **columns)
    with pytest.raises(EvaluationError) as caught:
        read_embeddings(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for word in words:
        assert word in message


def test_files_that_are_not_parquet(tmp_path):
    (tmp_path / "text.parquet").write_text("not a table")
    (tmp_path / "empty.parquet").write_bytes(b"")
    whole = save(tmp_path / "whole.parquet", VECTORS.tolist()).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    for name in ("text", "empty", "cut"):
        with pytest.raises(EvaluationError, match=rf"{name}\.parquet: not a readable Parquet file"):
            read_embeddings(tmp_path / f"{name}.parquet")
    with pytest.raises(EvaluationError, match=r"absent\.parquet: no such file"):
        read_embeddings(tmp_path / "absent.parquet")


def test_a_column_damaged_inside_is_an_evaluation_error(tmp_path):
    path = save(tmp_path / "e.parquet", VECTORS.tolist())
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)
    with pytest.raises(EvaluationError, match="not a readable Parquet file"):
        read_embeddings(path)


def test_non_finite_rows_can_be_kept(tmp_path):
    path = save(tmp_path / "e.parquet", NAN_ROW.tolist())
    kept = read_embeddings(path, non_finite="keep")
    assert np.isnan(kept.vectors[2, 1])


@pytest.mark.parametrize(
    ("keys", "labels", "vectors"),
    [
        (["a"], ["x", "y"], np.zeros((1, 2))),
        (["a", "b"], ["x", "y"], np.zeros((1, 2))),
        (["a"], ["x"], np.zeros(2)),
        (["a"], ["x"], np.zeros((1, 0))),
        ([], [], np.zeros((0, 4))),
        (["a", "a"], ["x", "y"], np.zeros((2, 2))),
        (["a"], [None], np.zeros((1, 2))),
        (["a"], [7], np.zeros((1, 2))),
    ],
)
def test_embeddings_refuse_what_cannot_be_scored(keys, labels, vectors):
    with pytest.raises(EvaluationError):
        Embeddings(keys, labels, vectors)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "e.parquet"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_files_of_others_is_read_in_the_order_of_their_names(tmp_path):
    vectors = pa.array(VECTORS.tolist())
    save(tmp_path / "part-1.parquet", vectors, key=["a", "b", "c", "d"])
    wide = pa.array(VECTORS.tolist(), type=pa.list_(pa.float64(), 3))
    save(tmp_path / "part-0.snappy.parquet", wide)
    empty = pa.array([], type=pa.list_(pa.float32()))
    save(
        tmp_path / "part-2.parquet",
        empty,
        key=pa.array([], pa.string()),
        label=pa.array([], pa.string()),
    )
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "_metadata.parquet").touch()
    found = read_embeddings(tmp_path)
    assert found.keys == [*KEYS, "a", "b", "c", "d"]
    assert found.labels == LABELS * 2
    np.testing.assert_array_equal(found.vectors, np.concatenate([VECTORS, VECTORS]))


def test_a_bad_file_in_a_folder_of_others_is_named(tmp_path):
    save(tmp_path / "a.parquet", pa.array(VECTORS.tolist()))
    save(tmp_path / "b.parquet", pa.array(VECTORS.tolist()))
    with pytest.raises(EvaluationError, match=r"4 duplicate keys: 'k0'"):
        read_embeddings(tmp_path)
    save(tmp_path / "b.parquet", pa.array(VECTORS[:, :2].tolist()), key=list("abcd"))
    with pytest.raises(EvaluationError, match="embeddings of two widths, 2 and 3"):
        read_embeddings(tmp_path)
    save(tmp_path / "b.parquet", None)
    with pytest.raises(EvaluationError, match=r"b\.parquet: column 'embedding' is missing"):
        read_embeddings(tmp_path)
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "b.parquet").rename(tmp_path / "part-000000000000.parquet")
    with pytest.raises(EvaluationError, match=r"unfinished \(no embeddings\.json\)"):
        read_embeddings(tmp_path)


def test_instances_are_an_optional_column(tmp_path):
    named = Embeddings(KEYS, LABELS, VECTORS, instances=["a", "", "Stu\u0308hl", "a"])
    write_embeddings(tmp_path / "e.parquet", named)
    assert pq.read_schema(tmp_path / "e.parquet").names[-1] == "instance"
    assert read_embeddings(tmp_path / "e.parquet").instances == ["a", "", "St\u00fchl", "a"]
    write_embeddings(tmp_path / "plain.parquet", Embeddings(KEYS, LABELS, VECTORS))
    assert "instance" not in pq.read_schema(tmp_path / "plain.parquet").names
    assert read_embeddings(tmp_path / "plain.parquet").instances == [""] * 4
    with pytest.raises(EvaluationError, match="3 instances for 4 keys"):
        Embeddings(KEYS, LABELS, VECTORS, instances=["a", "b", "c"])


def test_instances_of_other_programs_may_be_numbers_and_null(tmp_path):
    for name, column in (("a", pa.array([7, None, 8, 7])), ("b", pa.array(["x", "", None, "y"]))):
        (tmp_path / "parts").mkdir(exist_ok=True)
        columns = {"key": [name + key for key in KEYS], "label": LABELS, "instance": column}
        table = pa.table({**columns, "embedding": pa.array(VECTORS.tolist())})
        pq.write_table(table, tmp_path / "parts" / f"{name}.parquet")
    read = read_embeddings(tmp_path / "parts")
    assert read.instances == ["7", "", "8", "7", "x", "", "", "y"]
