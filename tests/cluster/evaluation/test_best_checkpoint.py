"""From validation on the way to the evaluation of the best checkpoints, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.training.train_command import _note
from evalsuite.pages.report import GROUPS, signal_panels
from evalsuite.pages.runs import view_run
from tests.command import CONFIGS, call, small
from trainer.config import load_config
from trainer.runs.run_folder import RunFolder


def scored(data: Path, **overrides: object) -> list[str]:
    return small(data, training__keep_last=1, validation__every=3, **overrides)


@pytest.mark.slow
def test_the_best_checkpoints_are_kept_evaluated_and_named_by_who_chose_them(
    benchmark, tmp_path, capfd
):
    run, config = tmp_path / "run", CONFIGS / "source-only.yaml"
    scores = {"validation__metric": "ANMRR", "validation__criterion": "im"}
    overrides = scored(benchmark, training__steps=9, **scores)
    trained = call(capfd, "train", config, *overrides, "--out", run)
    assert trained.code == 0, trained.err
    records = [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == [3, 6, 9]
    best = min(records, key=lambda r: (r["scores"]["ANMRR"], -r["step"]))  # lower is better
    shown = f"ANMRR {best['scores']['ANMRR']:.3f} on val at step {best['step']}"
    assert f"best by validation: {shown}" in trained.err
    kept = {int(p.name.removeprefix("step-")) for p in (run / "checkpoints").glob("step-*")}
    sure = max(records, key=lambda r: (r["scores"]["im"], r["step"]))
    assert f"best by validation: im {sure['scores']['im']:.3f} on gallery/train" in trained.err
    assert kept == {best["step"], sure["step"], 9}

    last = call(capfd, "eval", run, "--json").json
    assert last["selection"] == "last"
    assert json.loads((run / "evaluation" / "metrics.json").read_text()) == last
    chosen = call(capfd, "eval", run, "--select", "oracle", "--json")
    assert chosen.json["selection"] == "oracle (ANMRR on val)"
    assert f"best checkpoint: {shown}; labels chose it" in chosen.err
    results = run / f"at-{best['step']:08d}" / "evaluation" / "metrics.json"
    assert json.loads(results.read_text()) == chosen.json
    by_criterion = call(capfd, "eval", run, "--select", "im", "--json")
    assert by_criterion.json["selection"] == "im on gallery/train"
    assert "no label of the target chose it" in by_criterion.err
    embedded = call(capfd, "embed", run, "--select", "im", "--json").json
    assert embedded["step"] == sure["step"]
    given = call(capfd, "eval", run / "checkpoints" / f"step-{best['step']:08d}", "--json").json
    assert given == {**chosen.json, "selection": "given", "score": None}

    view = view_run(run)
    panels = signal_panels([view.log + view.validation], [0])
    assert "mAP" in [panel.title for panel in panels[GROUPS[3]]]
    note = _note({"loss": 0.5}, load_config(config, overrides), RunFolder(run))
    ended = records[-1]["scores"]
    assert (
        note == f"loss 0.500, ANMRR {ended['ANMRR']:.3f} at step 9, im {ended['im']:.3f} at step 9"
    )


def test_without_scores_the_remedy_is_told(benchmark, tmp_path, capfd):
    run = tmp_path / "run"
    overrides = small(benchmark, training__steps=1)
    assert call(capfd, "train", CONFIGS / "source-only.yaml", *overrides, "--out", run).code == 0
    for select, words in (
        ("oracle", "train with validation.every and validation.metric set"),
        ("snd", "train with validation.every and validation.criterion=snd set"),
        ("orakle", "--select: no selection 'orakle'; did you mean 'oracle'?"),
    ):
        assert words in call(capfd, "eval", run, "--select", select).complaint


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"validation__metric": "map"}, "did you mean 'mAP'?"),
        ({"validation__every": 4}, "is no multiple of training.checkpoint_every=3"),
        (
            {"validation__criterion": "im"},
            "is computed every validation.every steps, which is null",
        ),
    ],
)
def test_a_validation_that_cannot_be_is_one_line(benchmark, tmp_path, capfd, wrong, words):
    overrides = small(benchmark, **wrong)
    out = tmp_path / "run"
    told = call(capfd, "train", CONFIGS / "source-only.yaml", *overrides, "--out", out)
    assert words in told.complaint
    assert not out.exists()
