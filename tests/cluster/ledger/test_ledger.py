"""The ledger: many writers, killed writers, duplicates, what counts, merging."""

from __future__ import annotations

import json
import random
import time

import pytest

from cluster.ledger import store as ledger_module
from cluster.ledger.store import Ledger, ledger_of
from tests.cluster.ledger_rows import key, row, start_writer
from trainer.config import ConfigError


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "store" / "ledger.jsonl")


def test_a_row_is_given_back_as_it_was(ledger):
    assert ledger.rows() == []
    assert ledger.append({**row(1), "extra": {"kept": [1, None]}, "gap": float("nan")})
    expected = {"format": 1, **row(1), "extra": {"kept": [1, None]}, "gap": None}
    assert ledger.rows() == [expected]
    assert ledger.find("0000") == expected
    assert ledger.run_folder(expected) == ledger.store / "cells" / f"astn-{key(1)}"


def test_the_time_is_filled_in(ledger):
    ledger.append({"key": key(1), "status": "failed"})
    assert time.strptime(ledger.rows()[0]["written"], "%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.slow
def test_eight_processes_write_whole_lines(ledger, tmp_path):
    told = tmp_path / "told"
    writers = [start_writer(ledger.path, told, first=1000 * n, count=50) for n in range(8)]
    for running in writers:
        running.join(timeout=300)
    assert [running.exitcode for running in writers] == [0] * 8
    lines = ledger.path.read_text().splitlines()
    keys = [json.loads(line)["key"] for line in lines]
    assert len(keys) == 400
    assert set(keys) == set(told.read_text().split())
    assert set(keys) == {key(1000 * n + i) for n in range(8) for i in range(50)}


def test_several_processes_add_a_cell_once(ledger, tmp_path):
    writers = [start_writer(ledger.path, tmp_path / "told", first=0, count=20) for _ in range(4)]
    for running in writers:
        running.join(timeout=300)
    assert [running.exitcode for running in writers] == [0] * 4
    assert [r["key"] for r in ledger.rows()] == [key(n) for n in range(20)]


def test_nothing_told_is_lost_when_writers_are_killed(ledger, tmp_path, capfd):
    chance, told = random.Random(7), tmp_path / "told"
    told.touch()
    for attempt in range(15):
        before = told.stat().st_size
        running = start_writer(ledger.path, told, first=10_000 * attempt, count=10_000)
        while told.stat().st_size == before:
            assert running.exitcode is None
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.05))
        running.kill()
        running.join()
        # A kill may also come between the row and the word of it.
        assert set(told.read_text().split()) <= {r["key"] for r in Ledger(ledger.path).rows()}
    assert ledger.append(row(999_999))
    assert set(told.read_text().split()) <= {r["key"] for r in ledger.rows()}
    assert len(told.read_text().split()) >= 15
    assert "Traceback" not in capfd.readouterr().err


def test_a_torn_line_is_healed_and_told_once(ledger, capfd):
    ledger.append(row(1))
    with ledger.path.open("a") as file:
        file.write('{"format": 1, "key": "00')
    assert [r["key"] for r in ledger.rows()] == [key(1)]
    assert ledger.append(row(2))
    assert [r["key"] for r in ledger.rows()] == [key(1), key(2)]
    assert [r["key"] for r in ledger.rows()] == [key(1), key(2)]
    said = capfd.readouterr().err
    assert said.count("passed over a line that a killed writer left unfinished") == 1, said
    assert ledger.path.read_text().splitlines()[1] == '{"format": 1, "key": "00'


def test_a_row_that_lacks_only_its_end_counts(ledger):
    ledger.append(row(1))
    ledger.path.write_text(ledger.path.read_text().rstrip("\n"))
    assert [r["key"] for r in ledger.rows()] == [key(1)]
    assert not ledger.append(row(1))
    assert ledger.append(row(2))
    assert [r["key"] for r in Ledger(ledger.path).rows()] == [key(1), key(2)]


def test_a_full_disk_leaves_no_part_of_a_row(ledger, monkeypatch):
    ledger.append(row(1))
    before = ledger.path.read_bytes()

    def full(file: int, data: bytes) -> None:
        ledger_module.os.write(file, data[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ledger_module, "_write_all", full)
    with pytest.raises(OSError, match="No space") as err:
        ledger.append(row(2))
    assert err.value.filename == str(ledger.path)
    assert ledger.path.read_bytes() == before


def test_the_first_finished_row_stands(ledger):
    other = Ledger(ledger.path)
    assert ledger.append(row(1, "failed"))
    assert ledger.append(row(1))
    assert not other.append(row(1, metrics={"FT": 0.9}))
    assert not ledger.append(row(1, metrics={"FT": 0.9}))
    assert other.append(row(2))
    assert not ledger.append(row(2))
    assert [r["status"] for r in ledger.rows()] == ["failed", "finished", "finished"]


def test_duplicates_are_known_after_the_file_was_rewritten(ledger):
    for number in range(3):
        ledger.append(row(number))
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text(lines[2])  # the same file, another content
    assert not ledger.append(row(2))
    assert ledger.append(row(0))
    fresh = ledger.path.with_name("fresh")
    fresh.write_text(lines[1])
    fresh.replace(ledger.path)  # another file under its name
    assert not ledger.append(row(1))
    assert ledger.append(row(0))


def test_what_counts_of_a_cell(ledger):
    ledger.append(row(1, "failed", written="2026-01-01T00:00:00Z", error="old"))
    ledger.append(row(2, "stopped", written="2026-01-01T00:00:00Z"))
    ledger.append(row(2, "failed", written="2026-01-02T00:00:00Z"))
    ledger.append(row(1, "failed", written="2026-01-03T00:00:00Z", error="new"))
    ledger.append(row(1, "failed", written="2026-01-02T00:00:00Z", error="between"))
    current = ledger.current()
    assert list(current) == [key(1), key(2)]
    assert current[key(1)]["error"] == "new"
    assert current[key(2)]["status"] == "stopped"
    ledger.append(row(1, written="2020-01-01T00:00:00Z"))
    assert ledger.current()[key(1)]["status"] == "finished"


def test_finding_needs_one_match(ledger):
    ledger.append(row(0x12))
    ledger.append(row(0x13))
    with pytest.raises(ConfigError, match="begins several keys: 0000000000000012, "):
        ledger.find("0")
    with pytest.raises(ConfigError, match=r"no cell's key begins with 'f'.*ledger ls"):
        ledger.find("f")
    assert ledger.find("0000000000000013")["seed"] == 0x13


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[1]", "expected an object, found list"),
        ('{"format": 2, "key": 5}', "made by a newer img2shape"),
        ('{"key": "00"}', "format is None"),
        ('{"format": 1, "key": "xyz", "status": "failed"}', "16 hex digits"),
        (json.dumps({"format": 1, "key": key(1), "status": "done"}), "status is 'done'"),
        (json.dumps({"format": 1, **row(1), "cell": []}), "cell is"),
    ],
)
def test_a_whole_line_that_is_no_row_is_named(line, told, ledger):
    ledger.append(row(1))
    Ledger(ledger.path).append(row(2))
    with ledger.path.open("a") as file:
        file.write(line + "\n")
    where = f"{ledger.path}:3: "
    for call in (ledger.rows, lambda: ledger.append(row(3))):
        with pytest.raises(ConfigError) as err:
            call()
        assert str(err.value).startswith(where)
        assert told in str(err.value)


@pytest.mark.parametrize("change", [{"key": "1"}, {"status": "fine"}, {"format": 3}])
def test_a_wrong_row_is_not_written(change, ledger):
    with pytest.raises(ConfigError, match="the new row"):
        ledger.append({**row(1), **change})
    assert not ledger.path.exists()


def test_merging_takes_what_is_missing(ledger, tmp_path):
    other = Ledger(tmp_path / "other" / "ledger.jsonl")
    ledger.append(row(1))
    ledger.append(row(3, "failed"))
    for one in (row(1), row(2), row(3), row(4, "failed", run=None)):
        other.append(one)
    merged = ledger.merge([other.store])
    assert (merged.added, merged.known, merged.conflicts) == (3, 1, [])
    current = ledger.current()
    assert {k: r["status"] for k, r in current.items()} == {
        key(1): "finished",
        key(2): "finished",
        key(3): "finished",
        key(4): "failed",
    }
    assert current[key(1)]["run"] == f"cells/astn-{key(1)}"
    assert current[key(2)]["run"] == str(tmp_path / "other" / "cells" / f"astn-{key(2)}")
    assert current[key(4)]["run"] is None
    before = ledger.path.read_bytes()
    again = ledger.merge([other.path, ledger.path])
    assert (again.added, again.conflicts) == (0, [])
    assert ledger.path.read_bytes() == before
    other.merge([ledger.store])
    assert {r["key"] for r in other.rows()} == {key(n) for n in (1, 2, 3, 4)}


def test_what_comes_back_lies_in_the_store_again(ledger, tmp_path):
    other = Ledger(tmp_path / "other" / "ledger.jsonl")
    ledger.append(row(1))
    other.merge([ledger.store])
    ledger.path.unlink()
    assert ledger.merge([other.store]).added == 1
    assert ledger.rows()[0]["run"] == f"cells/astn-{key(1)}"


def test_differing_scores_are_a_conflict_and_the_first_stand(ledger, tmp_path):
    other = Ledger(tmp_path / "other" / "ledger.jsonl")
    ledger.append(row(1, metrics={"FT": 0.5, "mAP": 0.75}))
    other.append(row(1, metrics={"FT": 0.5, "mAP": 0.5, "E": 0.1}))
    other.append(row(1, "failed"))
    merged = ledger.merge([other.store])
    (conflict,) = merged.conflicts
    assert (conflict.key, conflict.source) == (key(1), other.path)
    assert conflict.metrics == {"mAP": (0.75, 0.5), "E": (None, 0.1)}
    assert [r["metrics"] for r in ledger.rows()] == [{"FT": 0.5, "mAP": 0.75}]


def test_no_ledger_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no ledger there; `img2shape sweep` makes one"):
        ledger_of(tmp_path)
    with pytest.raises(ConfigError, match="no ledger there"):
        Ledger(tmp_path / "ledger.jsonl").merge([tmp_path / "absent"])
