"""Embedding files that cannot be scored: one line with the file, the rows and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.command import call


@dataclass
class Files:
    """Columns of two Parquet files to spoil before they are written."""

    queries: dict[str, list]
    gallery: dict[str, list]


def sound() -> Files:
    random = np.random.default_rng(0)

    def columns(name: str, count: int) -> dict[str, list]:
        return {
            "key": [f"{name}-{i}" for i in range(count)],
            "label": ["ab"[i % 2] for i in range(count)],
            "embedding": random.normal(size=(count, 4)).tolist(),
        }

    return Files(columns("query", 6), columns("shape", 8))


def written(files: Files, folder: Path) -> list[str]:
    for name in ("queries", "gallery"):
        pq.write_table(pa.table(getattr(files, name)), folder / f"{name}.parquet")
    return [f"--{n}={folder / f'{n}.parquet'}" for n in ("queries", "gallery")]


def nan_row(files: Files) -> None:
    files.gallery["embedding"][3][2] = float("nan")


def infinite_row(files: Files) -> None:
    files.queries["embedding"][3][2] = float("inf")


def two_widths_in_a_file(files: Files) -> None:
    files.gallery["embedding"][5] = [1.0, 2.0]


def two_widths_between_files(files: Files) -> None:
    files.gallery["embedding"] = [row[:3] for row in files.gallery["embedding"]]


def no_label_column(files: Files) -> None:
    files.queries["class"] = files.queries.pop("label")


def no_rows(files: Files) -> None:
    files.queries = {name: values[:0] for name, values in files.queries.items()}


def a_null_label(files: Files) -> None:
    files.queries["label"][1] = None


def a_key_twice(files: Files) -> None:
    files.gallery["key"][1] = "shape-0"


def scalars(files: Files) -> None:
    files.queries["embedding"] = [1.0] * 6


def no_common_class(files: Files) -> None:
    files.queries["label"] = ["c"] * 6


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nan_row, ["gallery.parquet", "'shape-3'", "nan_policy"]),
        (infinite_row, ["queries.parquet", "'query-3'", "Inf"]),
        (two_widths_in_a_file, ["gallery.parquet", "'shape-5' has 2", "one network"]),
        (two_widths_between_files, ["queries.parquet", "gallery.parquet", "4", "3", "one network"]),
        (no_label_column, ["queries.parquet", "'label'", "class"]),
        (no_rows, ["queries.parquet", "no rows"]),
        (a_null_label, ["queries.parquet", "'label'", "'query-1'"]),
        (a_key_twice, ["gallery.parquet", "duplicate", "'shape-0'"]),
        (scalars, ["queries.parquet", "list<float>"]),
        (no_common_class, ["'c'", "label names"]),
    ],
)
def test_embeddings_that_cannot_be_scored(spoil: Callable[[Files], None], told, tmp_path, capfd):
    files = sound()
    spoil(files)
    done = call(capfd, "metrics", *written(files, tmp_path), "--json")
    assert all(word in done.complaint for word in told), done.complaint
    assert done.out == ""


def test_files_that_are_no_parquet(tmp_path, capfd):
    options = written(sound(), tmp_path)
    gallery = tmp_path / "gallery.parquet"
    gallery.write_bytes(gallery.read_bytes()[:-20])
    assert f"{gallery}: not a readable Parquet" in call(capfd, "metrics", *options).complaint
    gallery.write_text("key,label\n")
    assert f"{gallery}: not a readable Parquet" in call(capfd, "metrics", *options).complaint
    gallery.write_bytes(b"")
    assert f"{gallery}: not a readable Parquet" in call(capfd, "metrics", *options).complaint
    gallery.unlink()
    assert f"{gallery}: no such file" in call(capfd, "metrics", *options).complaint


@pytest.mark.parametrize("option", ["protocol", "features", "metric", "ties", "nan-policy"])
def test_an_unknown_option_value_names_the_choices(option, tmp_path, capfd):
    wrong = [f"--{option}", "modelnet"]
    told = call(capfd, "metrics", *written(sound(), tmp_path), *wrong, "--json").complaint
    assert f"{option.replace('-', '_')}='modelnet': expected one of " in told


def test_nan_rows_can_be_scored_as_failures(tmp_path, capfd):
    files = sound()
    nan_row(files)
    options = written(files, tmp_path)
    result = call(capfd, "metrics", *options, "--nan-policy", "last", "--json").json
    assert result["nan_policy"] == "last"


def test_a_query_class_without_a_shape_is_left_out_and_said(tmp_path, capfd, caplog):
    files = sound()
    files.queries["label"][0] = "ghost"
    options = written(files, tmp_path)
    result = call(capfd, "metrics", *options, "--json").json
    assert (result["n_queries"], result["n_evaluated"], result["n_missing"]) == (6, 5, 1)
    assert result["missing_labels"] == ["ghost"]
    assert "1 queries left out" in caplog.text
    assert "1 left out" in call(capfd, "metrics", *options).out
