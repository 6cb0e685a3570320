"""What a sweep finds in the ledger, and the reason it gives for what it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.sweeps.cells import Cell, Choosing, cell_key
from cluster.sweeps.plan import plan_cells
from cluster.sweeps.run import _waves
from cluster.sweeps.trial import Store, failed_row
from tests.command import CONFIGS
from trainer.config import load_config
from trainer.runs.checkpoint_facts import write_facts


def cell(*overrides: str, code: str = "c0", data: str = "d0", **labels: Any) -> Cell:
    config, choosing = load_config(CONFIGS / "dann.yaml", overrides), Choosing()
    key = cell_key(config, choosing, fingerprint=data, code=code, after=None)
    return Cell(labels or {"method": "dann"}, config, choosing, key, data, code)


def finish(store: Store, one: Cell, sweep: str = "s", status: str = "finished") -> None:
    """A row as a trial writes it, without the training."""
    base = failed_row(replace(one, key="0" * 16), Store(store.path / "elsewhere"), sweep=sweep,
                      error="stopped early at step 5" if status != "finished" else "")  # fmt: skip
    metrics = {"FT": 0.5, "mAP": 0.5} if status == "finished" else None
    error = None if status == "finished" else base["error"] or "broke"
    store.ledger.append({**base, "key": one.key, "status": status, "metrics": metrics,
                         "error": error})  # fmt: skip


def why(store: Store, one: Cell, **more: Any) -> tuple[bool, str]:
    """Whether it is run, and the reason."""
    options = {"sweep": "s", "retry": "none", "stops_early": False, "code": "same", **more}
    (planned,) = plan_cells([one], store, **options)
    return planned.row is None, planned.why


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_new_cell_is_run_and_a_finished_one_is_not(store):
    assert why(store, cell()) == (True, "new")
    finish(store, cell())
    runs, reason = why(store, cell())
    assert not runs
    assert reason.startswith("finished 20")
    assert why(store, cell(), sweep="another")[0] is False  # all sweeps share results


def test_what_has_changed_is_named(store):
    finish(store, cell("training.steps=400"))
    changed = cell("training.steps=50", "method.adversarial_weight=0.3")
    assert why(store, changed) == (True, "changed: method.adversarial_weight, training.steps")
    assert why(store, cell(data="d1")) == (True, "the data changed")
    assert why(store, cell(code="c1")) == (True, "the code changed (from c0 to c1)")
    other = replace(cell(), choosing=Choosing(selection="im"), key="f" * 16)
    assert why(store, other) == (True, "changed: selection (from last)")
    assert why(store, cell("training.seed=1", method="dann", seed=1)) == (True, "new")


def test_results_of_other_code_count_where_that_is_asked_for(store):
    finish(store, cell(code="c1"))
    assert why(store, cell(), code="same")[0]
    runs, reason = why(store, cell(), code="any")
    assert not runs
    assert reason.endswith("by code c1")
    assert why(store, cell("training.steps=50"), code="any")[0]


def test_a_failed_cell_waits_to_be_asked_for(store):
    finish(store, cell(), status="failed")
    runs, reason = why(store, cell())
    assert not runs
    assert "--resume tries it again" in reason
    assert why(store, cell(), retry="failed") == (True, "failed before")


def test_a_cell_stopped_early_trains_on_where_nothing_is_stopped(store):
    finish(store, cell(), status="stopped")
    assert why(store, cell(), stops_early=True) == (False, "stopped early at step 5")
    assert why(store, cell()) == (True, "was stopped early")


def test_a_half_trained_cell_continues(store):
    one = cell()
    checkpoint = store.folder(one).checkpoints / "step-00000200"
    checkpoint.mkdir(parents=True)
    write_facts(checkpoint, {"step": 200, "sha256": "0" * 64, "attempt": 1})
    assert why(store, one) == (True, "continues at step 200")


def test_cells_come_after_those_they_start_from():
    first, second, third = cell(a=1), cell(a=2), cell(a=3)
    second = replace(second, key="b" * 16, after=first.key)
    third = replace(third, key="c" * 16, after=second.key)
    alone = replace(first, key="d" * 16, after="e" * 16)  # starts from a run of another sweep
    assert _waves([third, second, alone, first]) == [[alone, first], [second], [third]]
