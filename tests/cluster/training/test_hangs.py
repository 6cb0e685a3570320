"""One line about a hang: who held up whom, where, and whose stacks to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.training.hangs import Hangs, described
from trainer.runs.run_folder import RunFolder
from trainer.watching.watchdog import HANGS

HUNG = {"phase": "data", "collectives": 7, "seconds": 60.2}
WAITING = {"phase": "collectives", "collectives": 8, "seconds": 60.0}
WORKING = {"phase": "round", "collectives": 7, "seconds": 0.4}


def reports(*places: dict | None, step: int | None = 23) -> list[dict]:
    """One report a rank, None for a rank without one."""
    return [
        {"rank": n, "world_size": len(places), "step": step, "limit_seconds": 60.0}
        | {"stacks": f"{n}.txt"}
        | place
        for n, place in enumerate(places)
        if place is not None
    ]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (
            [WAITING, HUNG],
            "rank 1 hung in phase 'data' at step 23 (no progress for 60 s); stacks: 1.txt",
        ),
        (
            [WAITING, {**HUNG, "seconds": 31.0}, WAITING],  # a wait that began before the hang
            "rank 1 hung in phase 'data' at step 23 (no progress for 31 s); stacks: 1.txt",
        ),
        (
            [{**HUNG, "phase": "backward"}, {**HUNG, "phase": "forward"}],
            "rank 1 hung in phase 'forward' at step 23 (no progress for 60 s); stacks: 1.txt",
        ),
        (
            [{**HUNG, "phase": "other", "collectives": 9}, HUNG, HUNG],  # on a GPU
            "ranks 1, 2 hung in phase 'data' at step 23 (no progress for 60 s); stacks: 1.txt",
        ),
        (
            [{**HUNG, "phase": "optimizer"}, HUNG],
            "rank 1 hung in phase 'data' at step 23 (no progress for 60 s); stacks: 1.txt",
        ),
        (
            [WAITING, HUNG, None],
            "rank 1 hung in phase 'data' at step 23 (no progress for 60 s); no report from rank 2; "
            "stacks: 1.txt",
        ),
        (
            [WAITING, None],
            "rank 1 gave no sign of life; rank 0 waited for it in phase 'collectives' at step 23 "
            "(no progress for 60 s); stacks: 0.txt",
        ),
        (
            [None, WAITING, None],
            "ranks 0, 2 gave no sign of life; rank 1 waited for them in phase 'collectives' at "
            "step 23 (no progress for 60 s); stacks: 1.txt",
        ),
        (
            [WAITING, WAITING],
            "ranks 0, 1 waited for each other in phase 'collectives' at step 23 (no progress for "
            "60 s); stacks: 0.txt",
        ),
        (
            [WAITING, WORKING],
            "rank 0 waited in phase 'collectives' at step 23 (no progress for 60 s) while rank 1 "
            "worked in phase 'round'; if that may take so long, raise training.watchdog_seconds; "
            "stacks: 1.txt",
        ),
    ],
)
def test_a_line_names_who_held_up_whom(places, expected):
    assert described(reports(*places), Path()) == expected


def test_a_hang_before_the_first_step_has_no_step():
    (report,) = reports({**HUNG, "phase": "start"}, step=None)
    assert described([report], Path("runs/x/hangs")) == (
        "rank 0 hung in phase 'start' (no progress for 60 s); stacks: runs/x/hangs/0.txt"
    )


def write(run: Path, report: dict, time: str) -> None:
    (run / HANGS).mkdir(exist_ok=True)
    (run / HANGS / f"{time}-rank-{report['rank']}.json").write_text(json.dumps(report))


def test_a_hang_is_said_once_when_all_ranks_have_reported(tmp_path, capfd):
    waiting, hung = reports(WAITING, HUNG)
    write(tmp_path, hung, "1")  # of an earlier command
    hangs = Hangs(RunFolder(tmp_path))
    hangs.look(last=False)
    write(tmp_path, waiting, "2")
    hangs.look(last=False)
    assert capfd.readouterr().err == ""
    write(tmp_path, hung, "3")
    hangs.look(last=False)
    hangs.look(last=True)
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert "rank 1 hung in phase 'data'" in said
    assert hangs.taken() == said.rstrip()
    hangs.look(last=True)
    assert (capfd.readouterr().err, hangs.taken()) == ("", None)


def test_a_rank_without_a_report_is_named_when_its_group_has_ended(tmp_path, capfd):
    hangs = Hangs(RunFolder(tmp_path))
    waiting, _ = reports(WAITING, HUNG)
    write(tmp_path, waiting, "1")
    hangs.look(last=False)
    assert capfd.readouterr().err == ""
    hangs.look(last=True)
    assert "rank 1 gave no sign of life" in capfd.readouterr().err
