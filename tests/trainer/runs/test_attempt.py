"""The history of a run's starts."""

from __future__ import annotations

import pytest

from trainer.runs.attempt import Start, read_starts, take_attempt


@pytest.fixture
def facts(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    return tmp_path / "run.json"


def test_each_start_is_one_line_with_the_number_that_fences(facts):
    take_attempt(facts)  # died before its first step
    take_attempt(facts).begin(step=0, world_size=2)
    take_attempt(facts).begin(step=7, world_size=1)
    take_attempt(facts).begin(step=9, world_size=3, reason="worker death")
    assert read_starts(facts.parent) == [
        Start(2, 0, 2, "start"),
        Start(3, 7, 1, "continued"),
        Start(4, 9, 3, "worker death"),
    ]


def test_a_line_that_is_cut_short_or_foreign_is_none(facts):
    take_attempt(facts).begin(step=0, world_size=2)
    file = facts.parent / "attempts.jsonl"
    file.write_text('{"attempt": 1, "step": 0}\n' + file.read_text() + '{"attempt": 2, "st')
    assert read_starts(facts.parent) == [Start(1, 0, 2, "start")]
    take_attempt(facts).begin(step=5, world_size=2)
    assert read_starts(facts.parent) == [Start(1, 0, 2, "start"), Start(2, 5, 2, "continued")]


def test_a_folder_that_nobody_claimed_gets_no_history(tmp_path):
    take_attempt(tmp_path / "run.json").begin(step=0, world_size=1)
    assert not list(tmp_path.iterdir())


def test_a_history_that_cannot_be_written_ends_no_run(facts, caplog):
    (facts.parent / "attempts.jsonl").mkdir()
    take_attempt(facts).begin(step=0, world_size=1)
    assert "attempts.jsonl: cannot be written" in caplog.text
