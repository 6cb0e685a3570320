"""Reading ``log.jsonl`` and its kin while they grow, after a kill, and when a line is damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evalsuite.run_records import NewRecords, read_records
from evalsuite.vectors import EvaluationError

LINES = [json.dumps({"step": step}) for step in range(3)]


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "log.jsonl"


def test_no_file_has_no_records(path):
    assert read_records(path) == []
    assert read_records(path / "inside-a-file") == []
    assert NewRecords(path).read() == []


@pytest.mark.parametrize("torn", ["", '{"step": 3, "lo', '"half', "7\n"])
def test_a_torn_last_line_is_left_out(path, torn):
    path.write_text("\n".join([*LINES, torn]))
    assert read_records(path) == [{"step": 0}, {"step": 1}, {"step": 2}]


def test_another_damaged_line_is_named_or_left_out(path):
    path.write_text("\n".join([LINES[0], '{"st', LINES[2]]) + "\n")
    with pytest.raises(EvaluationError, match=r"log\.jsonl: record 2 is not JSON; remove the line"):
        read_records(path)
    assert read_records(path, skip_damaged=True) == [{"step": 0}, {"step": 2}]


def test_each_step_of_a_growing_file_comes_once(path):
    news = NewRecords(path)
    path.write_text(LINES[0] + "\n" + LINES[1][:4])
    assert [r["step"] for r in news.read()] == [0]
    path.write_text("\n".join(LINES[:2]) + "\n")
    assert [r["step"] for r in news.read()] == [1]
    assert news.read() == []
    path.unlink()  # a run that continues writes the last steps again
    path.write_text("\n".join(LINES) + "\n")
    assert [r["step"] for r in news.read()] == [2]
