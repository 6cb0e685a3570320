"""What a sweep says on its way: a table on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from cluster.sweeps import live
from cluster.sweeps.cells import Cell, Choosing
from cluster.sweeps.live import Progress, shown_progress
from tests.command import CONFIGS
from trainer.config import load_config

CONFIG = load_config(CONFIGS / "dann.yaml")


def cell(seed: int) -> Cell:
    labels = {"method": "dann", "training.seed": seed}
    return Cell(labels, CONFIG, Choosing(selection="im"), f"{seed:016x}", "d", "c")


def row(status: str, **more: Any) -> dict[str, Any]:
    metrics = {"FT": 0.25, "mAP": None} if status == "finished" else None
    return {"status": status, "metrics": metrics, "error": None, "seconds": {"total": 2.0}, **more}


def told(progress: Progress) -> None:
    """Two of four cells end, one fails once, one trains."""
    for seed in range(3):
        progress.started(cell(seed))
    progress.over(cell(0), row("finished"))
    progress.again(cell(1), "its process died")
    progress.started(cell(1))
    progress.over(cell(1), row("failed", error="RuntimeError: [b]broken[/b]"))
    progress.reported(cell(2), {"step": 100, "im": 0.5, "mAP": 0.25})
    progress.reported(cell(2), {"at": 120, "loss": 0.5})


def test_lines_say_what_ended_and_what_is_left(monkeypatch, capfd):
    monkeypatch.setattr(live, "LINE_SECONDS", 0.0)
    with shown_progress("sweep s: 4 cells", 4) as progress:
        told(progress)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "sweep s: 4 cells ..."
    assert "dann · seed 0: started" in lines
    (finished,) = [line for line in lines if "FT 0.250 in 2.0 s" in line]
    assert finished.startswith("dann · seed 0: ")
    assert "(1 of 4, " in finished
    assert "dann · seed 1: failed, tries again: its process died" in lines
    assert any("failed: RuntimeError: [b]broken[/b] (2 of 4" in line for line in lines)
    steps = CONFIG.training.steps
    assert lines[-1] == f"dann · seed 2: step 120 of {steps}, loss 0.500, mAP 0.250, im 0.500"


def test_the_table_shows_counts_and_every_running_cell():
    progress = Progress("sweep s", 4, plain=False)
    told(progress)
    out = io.StringIO()
    Console(file=out, width=100).print(progress)
    text = out.getvalue()
    assert "1 failed, 1 finished, 1 running, 1 waiting" in " ".join(text.split())
    assert "RuntimeError: [b]broken[/b]" in text
    assert "step 120 of" in text
    assert text.index("seed 0") < text.index("seed 1") < text.index("seed 2")
