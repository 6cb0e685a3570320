"""`img2shape ledger`: listing, comparing, exporting, merging and cleaning up."""

from __future__ import annotations

import json
import threading

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from cluster.ledger.cell_folders import cell_lock
from cluster.ledger.cleaning import clean
from cluster.ledger.store import Ledger
from tests.cluster.ledger_rows import key, row, write_old
from tests.command import call
from trainer.config import ConfigError


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def ledger(store):
    """A finished cell of astn, one of dann that failed, then finished, one that was stopped."""
    made = Ledger(store / "ledger")
    made.append(row(1))
    made.append(row(2, "failed", method="dann", sweep="second"))
    made.append(row(2, method="dann", sweep="second", written="2026-02-01T00:00:00Z"))
    made.append(row(3, "stopped", cell={"pair": "a <b> [red]"}, code="fedcba987654"))
    return made


def files(store) -> dict[str, bytes]:
    """Every file of the store with its content."""
    found = (path for path in store.rglob("*") if path.is_file())
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in found}


def folder(store, number: int):
    made = store / "cells" / f"astn-{key(number)}"
    made.mkdir(parents=True)
    (made / "weights").write_bytes(b"12345")
    return made


def test_ls_shows_one_line_a_cell(ledger, store, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    done = call(capfd, "ledger", "ls", "--store", store)
    assert (done.code, done.err) == (0, "")
    assert "2 finished · 1 stopped · 0 failed" in done.out
    assert "a <b> [red]" in done.out
    assert "oracle mAP" in done.out
    assert [word in done.out for word in ("0.251", "0.625", "2026-02-01 00:00")] == [True] * 3
    assert done.out.count("0000000000000000"[:8]) == 3


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ([], [1, 2, 3]),
        (["--status", "finished"], [1, 2]),
        (["--method", "dann"], [2]),
        (["--sweep", "first", "--status", "stopped"], [3]),
        (["--sweep", "second", "--status", "failed"], []),
    ],
)
def test_ls_chooses(options, numbers, ledger, store, capfd):
    found = call(capfd, "ledger", "ls", "--store", store, "--json", *options).json["rows"]
    assert [r["key"] for r in found] == [key(n) for n in numbers]


def test_show_tells_what_differs(ledger, store, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = call(capfd, "ledger", "show", key(1), "--store", store).out
    assert all(word in shown for word in ("cell.network.backbone", "oracle.mAP", "0.251"))
    found = call(capfd, "ledger", "show", key(1), key(3), "--store", store, "--json").json
    assert found["differences"] == {
        "config.training.seed": [1, 3],
        "code": ["0123456789ab", "fedcba987654"],
        "metrics.FT": [0.251, None],
        "metrics.mAP": [0.5, None],
    }
    text = call(capfd, "ledger", "show", key(1), key(3), "--store", store).out
    assert "config.training.seed" in text
    same = call(capfd, "ledger", "show", key(1), key(1), "--store", store)
    assert "no difference" in same.out


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl"])
def test_an_export_reads_back(ending, ledger, store, tmp_path, capfd):
    to = tmp_path / "tables" / f"cells.{ending}"
    done = call(capfd, "ledger", "export", "--to", to, "--store", store, "--json")
    assert done.json["rows"] == 3
    if ending == "parquet":
        found = pq.read_table(to).to_pylist()
    elif ending == "csv":
        options = pyarrow.csv.ConvertOptions(
            strings_can_be_null=True, column_types={"key": "string"}
        )
        found = pyarrow.csv.read_csv(to, convert_options=options).to_pylist()
    else:
        found = [json.loads(line) for line in to.read_text().splitlines()]
    assert len(found[0]) == done.json["columns"]
    assert [r["key"] for r in found] == [key(n) for n in (1, 2, 3)]
    assert [r["metrics.FT"] for r in found] == [0.251, 0.252, None]
    assert [r["cell.training.seed"] for r in found] == [1, 2, None]
    assert [r["cell.pair"] for r in found] == [None, None, "a <b> [red]"]
    assert [r["oracle.mAP"] for r in found] == [0.625, 0.625, None]
    assert [r["oracle.step"] for r in found] == [300, 300, None]
    assert [r["low.FT"] for r in found] == [0.1] * 3
    assert [r["seconds.train"] for r in found] == [3.5] * 3
    assert [r["status"] for r in found] == ["finished", "finished", "stopped"]
    assert list((tmp_path / "tables").iterdir()) == [to]


def test_a_column_has_one_kind(ledger, store, tmp_path, capfd):
    ledger.append(row(4, cell={"training.seed": "all"}))
    to = tmp_path / "cells.parquet"
    assert call(capfd, "ledger", "export", "--to", to, "--store", store).code == 0
    seeds = pq.read_table(to).column("cell.training.seed").to_pylist()
    assert seeds == ["1", "2", None, "all"]


def test_merge_takes_over_and_tells_conflicts(ledger, store, tmp_path, capfd):
    other = Ledger(tmp_path / "other" / "ledger")
    other.append(row(7))
    done = call(capfd, "ledger", "merge", other.store, "--store", store)
    assert (done.code, done.out.splitlines()[0]) == (
        0,
        "1 rows added, 0 were known or superseded",
    )
    other.append(row(1, metrics={"FT": 0.75, "mAP": 0.5, "NN": None}))
    done = call(capfd, "ledger", "merge", other.store, "--store", store)
    assert done.code == 1
    assert f"conflict: {key(1)} of" in done.out
    assert "FT 0.251 here, 0.75 there; the row here stands" in done.out
    assert ledger.find(key(1))["metrics"]["FT"] == 0.251
    fresh = tmp_path / "fresh"
    assert call(capfd, "ledger", "merge", store, other.store, "--store", fresh).code == 1
    assert len(Ledger(fresh / "ledger").current()) == 4


def test_gc_tells_first_and_removes_when_told_to(ledger, store, capfd):
    needed, unneeded = folder(store, 1), folder(store, 9)
    write_old(ledger, row(2, "failed"))
    with ledger.old_file.open("a") as file:
        file.write('{"torn')
    (ledger.path / f".{key(5)}.jsonl.123.tmp").write_text("{")
    before = files(store)
    told = call(capfd, "ledger", "gc", "--store", store)
    assert "would be removed (--yes does it): 2 rows, 1 unfinished lines, 1 folders" in told.out
    assert files(store).items() >= before.items()
    assert unneeded.is_dir()
    done = call(capfd, "ledger", "gc", "--store", store, "--yes", "--json").json
    assert [d["reason"] for d in done["dropped"]] == ["superseded: the cell is finished"] * 2
    assert (done["done"], done["kept"], done["torn"]) == (True, 3, 1)
    assert (done["folders"], done["folder_bytes"]) == ([str(unneeded)], 5)
    assert needed.is_dir()
    assert not unneeded.exists()
    assert sorted(p.name for p in (store / "cells").iterdir()) == [needed.name]
    assert not ledger.old_file.exists()
    after = {path.name: path.read_bytes() for path in ledger.path.iterdir()}
    kept = {name: before[f"ledger/{name}"].splitlines(keepends=True)[-1] for name in after}
    assert after == kept
    assert sorted(after) == [f"{key(n)}.jsonl" for n in (1, 2, 3)]
    assert not ledger.append(row(1))
    assert ledger.append(row(5))


def test_gc_of_code_versions_and_gone_folders(ledger, store):
    folder(store, 1)
    of_old_code = folder(store, 3)
    done = clean(ledger, keep_code=["01234567"], dry_run=False)
    assert [d.reason for d in done.dropped][1:] == ["of code version fedcba987654"]
    assert not of_old_code.exists()
    done = clean(ledger, drop_gone=True, dry_run=False)
    assert [d.key for d in done.dropped] == [key(2)]
    assert [r["key"] for r in ledger.rows()] == [key(1)]


def test_gc_leaves_folders_of_living_processes(ledger, store):
    unneeded, name = folder(store, 9), f"astn-{key(9)}"
    entered, leave = threading.Event(), threading.Event()

    def work() -> None:
        with cell_lock(store, name):
            entered.set()
            assert leave.wait(timeout=60)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert entered.wait(timeout=60)
        done = clean(ledger, dry_run=False)
        assert (done.folders, done.busy) == ([], [unneeded])
        assert (unneeded / "weights").exists()
    finally:
        leave.set()
        thread.join()
    assert clean(ledger, dry_run=False).folders == [unneeded]
    assert not unneeded.exists()


def test_gc_touches_nothing_but_folders_in_cells(ledger, store, tmp_path):
    elsewhere = folder(tmp_path, 5)
    cells = store / "cells"
    cells.mkdir()
    (cells / "link").symlink_to(elsewhere)
    (cells / "file").write_text("mine")
    (store / "first").mkdir()
    folder(store, 4)
    ledger.append(row(4, run=f"cells/astn-{key(4)}/inner"))
    done = clean(ledger, dry_run=False)
    assert done.folders == []
    assert sorted(p.name for p in cells.iterdir()) == [f"astn-{key(4)}", "file", "link"]
    assert (elsewhere / "weights").exists()
    assert (store / "first").is_dir()


def test_what_a_killed_gc_left_is_removed(ledger, store):
    left = store / "cells" / ".removed-0-astn-00"
    left.mkdir(parents=True)
    clean(ledger)
    assert left.is_dir()
    clean(ledger, dry_run=False)
    assert not left.exists()


def test_a_cell_is_held_by_one_at_a_time(store):
    inside: list[int] = []

    def work(number: int) -> None:
        for _ in range(20):
            with cell_lock(store, "cell") as path:
                assert path == store / "cells" / "cell"
                inside.append(number)
                assert len(inside) == 1
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inside == []
    assert list((store / "cells").iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "a/b", ".removed-1"])
def test_a_cell_needs_a_plain_name(name, store):
    with pytest.raises(ConfigError, match="no name of a cell's folder"), cell_lock(store, name):
        pass
    assert not store.exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["ls", "--store", "absent"], "no ledger there; `img2shape sweep` makes one"),
        (["ls", "--status", "finish"], "--status 'finish' is unknown; did you mean 'finished'?"),
        (["ls", "--method", "dan"], "did you mean 'dann'?"),
        (["ls", "--sweep", "third"], "--sweep 'third' is unknown"),
        (["show", "f"], "no cell's key begins with 'f'"),
        (["show", "0"], "begins several keys"),
        (["export", "--to", "x.xlsx"], "unknown ending '.xlsx'"),
        (["export", "--to", "store/ledger.jsonl"], "is the ledger itself"),
        (["export", "--to", f"store/ledger/{key(1)}.jsonl"], "is the ledger itself"),
        (["merge", "absent"], "no ledger there"),
        (["gc", "--yes", "--dry-run"], "exclude each other"),
        (["gc", "--store", "absent"], "no ledger there"),
    ],
)
def test_bad_input_is_one_line(arguments, told, ledger, store, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    if "--store" not in arguments:
        arguments = [*arguments, "--store", "store"]
    before = files(store)
    assert told in call(capfd, "ledger", *arguments).complaint
    assert files(store) == before


def test_a_newer_ledger_is_refused(ledger, store, capfd):
    newer = ledger.path / f"{key(5)}.jsonl"
    newer.write_text('{"format": 2}\n')
    for given in (store, store / "ledger.jsonl"):
        told = call(capfd, "ledger", "ls", "--store", given).complaint
        assert told.startswith(f"{newer}:1: made by a newer img2shape")
