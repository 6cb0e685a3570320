"""The ledger: many writers, killed writers, duplicates, what counts, merging."""

from __future__ import annotations

import json
import random
import shutil
import time

import pytest

from cluster.ledger.cleaning import clean
from cluster.ledger.store import Ledger, ledger_of
from dataio import atomic
from tests.cluster.ledger_rows import key, row, start_writer, write_old
from trainer.config import ConfigError


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "store" / "ledger")


def snapshot(ledger: Ledger) -> dict[str, bytes]:
    """Every file of the ledger with its content."""
    return {path.name: path.read_bytes() for path in ledger.path.iterdir()}


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
    files = sorted(ledger.path.iterdir())
    keys = [json.loads(file.read_text())["key"] for file in files]
    assert [file.name for file in files] == [f"{key}.jsonl" for key in keys]
    assert len(keys) == 400
    assert set(keys) == set(told.read_text().split())
    assert set(keys) == {key(1000 * n + i) for n in range(8) for i in range(50)}


@pytest.mark.processes
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


def test_a_torn_line_of_an_old_ledger_is_told_once(ledger, capfd):
    write_old(ledger, row(1))
    with ledger.old_file.open("a") as file:
        file.write('{"format": 1, "key": "00')
    assert [r["key"] for r in ledger.rows()] == [key(1)]
    assert ledger.append(row(2))
    assert [r["key"] for r in ledger.rows()] == [key(1), key(2)]
    assert [r["key"] for r in ledger.rows()] == [key(1), key(2)]
    said = capfd.readouterr().err
    assert said.count("passed over a line that a killed writer left unfinished") == 1, said
    assert ledger.old_file.read_text().splitlines()[1] == '{"format": 1, "key": "00'


def test_a_row_that_lacks_only_its_end_counts(ledger):
    write_old(ledger, row(1))
    ledger.old_file.write_text(ledger.old_file.read_text().rstrip("\n"))
    assert [r["key"] for r in ledger.rows()] == [key(1)]
    assert not ledger.append(row(1))
    assert ledger.append(row(2))
    assert [r["key"] for r in Ledger(ledger.path).rows()] == [key(1), key(2)]


@pytest.mark.parametrize("old", [row(2, "failed"), None])
def test_a_full_disk_leaves_no_part_of_a_row(old, ledger, monkeypatch):
    for one in filter(None, (row(1), old)):
        ledger.append(one)
    before = snapshot(ledger)

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space") as err:
        ledger.append(row(2))
    assert err.value.filename == str(ledger.path / f"{key(2)}.jsonl")
    assert snapshot(ledger) == before


def test_the_first_finished_row_stands(ledger):
    other = Ledger(ledger.path)
    assert ledger.append(row(1, "failed"))
    assert ledger.append(row(1))
    assert not other.append(row(1, metrics={"FT": 0.9}))
    assert not ledger.append(row(1, metrics={"FT": 0.9}))
    assert other.append(row(2))
    assert not ledger.append(row(2))
    assert [r["status"] for r in ledger.rows()] == ["failed", "finished", "finished"]


def test_duplicates_are_known_after_another_program_changed_the_files(ledger):
    for number in range(3):
        ledger.append(row(number))
    first, second, _ = sorted(ledger.path.iterdir())
    first.unlink()
    second.write_text(json.dumps({"format": 1, **row(1, "failed")}))
    assert not ledger.append(row(2))
    assert ledger.append(row(0))
    assert not ledger.append(row(0))
    assert ledger.append(row(1))
    assert [r["status"] for r in ledger.rows() if r["key"] == key(1)] == ["failed", "finished"]


def test_rows_of_an_old_ledger_are_the_first_of_their_cells(ledger):
    write_old(ledger, row(1, "failed"), row(2), row(3, "failed"))
    assert ledger.append(row(1))
    assert not ledger.append(row(2, metrics={"FT": 0.9}))
    assert ledger.append(row(4, "stopped"))
    expected = [(1, "failed"), (1, "finished"), (2, "finished"), (3, "failed"), (4, "stopped")]
    for one in (ledger, ledger_of(ledger.store), ledger_of(ledger.old_file)):
        assert [(r["seed"], r["status"]) for r in one.rows()] == expected
        assert one.current_of(key(1)) == one.current()[key(1)]
    assert ledger.current()[key(1)]["status"] == "finished"
    assert ledger.find(key(3))["status"] == "failed"


def test_an_old_ledger_is_merged_and_cleaned(ledger, tmp_path):
    write_old(ledger, row(1, "failed"), row(1), row(2))
    other = Ledger(tmp_path / "other" / "ledger")
    write_old(other, row(2), row(3), row(4, "failed"))
    for source in (other.store, other.old_file):
        assert ledger.merge([source]).added == (2 if source == other.store else 0)
    before = ledger.current()
    assert list(before) == [key(n) for n in (1, 2, 3, 4)]
    old = ledger.old_file.read_bytes()
    assert (clean(ledger).kept, ledger.old_file.read_bytes()) == (4, old)
    cleaned = clean(ledger, dry_run=False)
    assert (cleaned.kept, [d.status for d in cleaned.dropped]) == (4, ["failed"])
    assert not ledger.old_file.exists()
    assert ledger.current() == before
    ledger.old_file.write_bytes(old)  # as after a kill between the cells' files and its removal
    assert ledger.current() == before
    assert len(ledger.rows()) == 5
    assert clean(ledger, dry_run=False).kept == 4


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
    ledger.append(row(3, "failed"))
    Ledger(ledger.path).append(row(3, "stopped"))
    write_old(ledger, row(1), row(2))
    for damaged in (ledger.path / f"{key(3)}.jsonl", ledger.old_file):
        before = damaged.read_text()
        damaged.write_text(before + line + "\n")
        for call in (ledger.rows, lambda: ledger.append(row(3))):
            with pytest.raises(ConfigError) as err:
                call()
            assert str(err.value).startswith(f"{damaged}:3: ")
            assert told in str(err.value)
        damaged.write_text(before)
    assert len(ledger.rows()) == 4


@pytest.mark.parametrize("change", [{"key": "1"}, {"status": "fine"}, {"format": 3}])
def test_a_wrong_row_is_not_written(change, ledger):
    with pytest.raises(ConfigError, match="the new row"):
        ledger.append({**row(1), **change})
    assert not ledger.path.exists()


def test_merging_takes_what_is_missing(ledger, tmp_path):
    other = Ledger(tmp_path / "other" / "ledger")
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
    before = snapshot(ledger)
    again = ledger.merge([other.store, ledger.old_file])
    assert (again.added, again.conflicts) == (0, [])
    assert snapshot(ledger) == before
    other.merge([ledger.store])
    assert {r["key"] for r in other.rows()} == {key(n) for n in (1, 2, 3, 4)}


def test_what_comes_back_lies_in_the_store_again(ledger, tmp_path):
    other = Ledger(tmp_path / "other" / "ledger")
    ledger.append(row(1))
    other.merge([ledger.store])
    shutil.rmtree(ledger.path)
    assert ledger.merge([other.store]).added == 1
    assert ledger.rows()[0]["run"] == f"cells/astn-{key(1)}"


def test_differing_scores_are_a_conflict_and_the_first_stand(ledger, tmp_path):
    other = Ledger(tmp_path / "other" / "ledger")
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
        Ledger(tmp_path / "ledger").merge([tmp_path / "absent"])
    with pytest.raises(ConfigError, match="no ledger there"):
        ledger_of(tmp_path / "ledger.jsonl")
