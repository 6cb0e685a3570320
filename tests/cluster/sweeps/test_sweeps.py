"""Sweeps for real: trained on Ray Tune, kept in the ledger, run again, searched, stopped early."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.ledger.store import Ledger
from tests.command import CONFIGS, Outcome, call

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

ONE = ("--max-concurrent", 1)  # cell at a time: each process of Ray Tune imports for seconds

TINY = {
    "data.num_classes": None,
    "data.train_views": 2,
    "network.tiny_width": 8,
    "network.embedding": 16,
    "training.steps": 4,
    "training.batch": 8,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
}


@pytest.fixture
def written(benchmark, tmp_path):
    def write(**tree: Any) -> Path:
        keys = {"data.root": str(benchmark), **TINY, **tree.pop("set", {})}
        whole = {"config": str(CONFIGS / "{method}.yaml"), "reports": False, **tree, "set": keys}
        file = tmp_path / "mine.yaml"
        file.write_text(yaml.safe_dump(whole, sort_keys=False))
        return file

    return write


@pytest.fixture
def swept(capfd, tmp_path):
    def sweep(file: Path, *options: object) -> Outcome:
        return call(capfd, "sweep", file, "--store", tmp_path / "store", "--json", *options)

    return sweep


def states(result: Any) -> Counter:
    return Counter(row["status"] for row in result["rows"])


def test_a_sweep_is_widened_and_mended(written, swept, tmp_path, capfd):
    axes = {
        "method": ["source-only", "dann"],
        "rate": {"usual": {}, "absurd": {"optimizer.learning_rate": 1e30}},
    }
    sinks, none = ["tensorboard"], {"optimizer.clip_norm": None}
    file = written(axes=axes, selection="im", sinks=sinks, set=none)
    first = swept(file, *ONE)
    assert first.code == 1  # two cells diverge
    assert "2 of 4 cells failed" in first.err
    again = swept(file, *ONE)
    assert again.code == 1
    result = call(capfd, "ledger", "ls", "--store", tmp_path / "store", "--json").json
    rows = Ledger(tmp_path / "store" / "ledger").rows()
    assert Counter(row["status"] for row in rows) == {"finished": 2, "failed": 2}
    assert len(result["rows"]) == 4
    for row in rows:
        assert row["sweep"] == "mine"
        assert row["cell"]["rate"] == ("usual" if row["status"] == "finished" else "absurd")
        if row["status"] == "failed":
            assert "NonFiniteError" in row["error"]
            continue
        assert row["selected"]["selection"].startswith("im on ")
        assert row["oracle"]["selection"].startswith("oracle")
        assert {"NN", "FT", "mAP"} <= row["metrics"].keys()
        assert [point["step"] for point in row["curve"]] == [2, 4]
        assert all({"im", "mAP", "loss"} <= point.keys() for point in row["curve"])
        best = max(row["curve"], key=lambda point: point["im"])
        assert row["selected"]["step"] == best["step"]
        assert row["images_per_second"] > 0
        assert list((tmp_path / "store" / row["run"]).glob("**/events.out.tfevents*"))
    axes["rate"] = {"usual": {}, "slow": {"optimizer.learning_rate": 0.001}}
    widened = swept(written(axes=axes, selection="im", sinks=sinks, set=none), *ONE).json
    assert widened["ran"] == 2
    assert states(widened) == {"finished": 4}
    page = Path(widened["page"]).read_text()
    assert "slow" in page
    assert "<svg" in page


def test_workers_of_a_trial_train_what_its_own_process_trains(written, swept, tmp_path):
    axes = {"method": ["dann"], "training.seed": [3]}
    alone = swept(written(axes=axes)).json
    (tmp_path / "store").rename(tmp_path / "alone")
    group = swept(written(axes=axes), "--workers-per-trial", 2).json
    assert group["rows"][0]["world_size"] == 2
    assert group["rows"][0]["key"] == alone["rows"][0]["key"]
    for name, value in alone["rows"][0]["metrics"].items():
        assert group["rows"][0]["metrics"][name] == pytest.approx(value, abs=1e-12), name


def test_too_many_workers_for_the_cluster_are_refused(written, swept):
    refused = swept(written(axes={"method": ["dann"]}), "--workers-per-trial", 500)
    assert "--workers-per-trial 500" in refused.complaint


def test_a_sink_that_is_not_there_is_refused_before_any_cell(written, swept, tmp_path):
    refused = swept(written(axes={"method": ["dann"]}, sinks=["tensorbord"]))
    assert "tensorbord: unknown; did you mean 'tensorboard'?" in refused.complaint
    assert not (tmp_path / "store").exists()


def test_cells_that_do_badly_are_stopped_early(written, swept):
    rates = [0.1, 0.05, 1e-9, 1e-8]  # the last two stay as undecided as they were
    result = swept(
        written(
            axes={"method": ["dann"], "optimizer.learning_rate": rates},
            early_stopping={"grace_steps": 2, "reduction": 2},
            objective="entropy",
            oracle=False,
            set={"training.steps": 8},
        ),
        *ONE,
    ).json
    found = states(result)
    assert found["finished"] + found["stopped"] == 4
    assert found["finished"] >= 1
    stopped = {r["cell"]["optimizer.learning_rate"] for r in result["rows"] if not r["metrics"]}
    assert stopped & {1e-9, 1e-8}
    for row in result["rows"]:
        if row["status"] == "stopped":
            assert row["metrics"] is None
            assert "stopped early at step" in row["error"]
            assert max(point["step"] for point in row["curve"]) < 8


def test_a_search_proposes_the_same_points_and_finds_them_in_the_ledger(written, swept):
    pytest.importorskip("optuna", reason="optuna is not installed: pip install 'img2shape[search]'")
    tree = {
        "axes": {
            "method": ["dann", "gfk"],
            "optimizer.learning_rate": {"loguniform": [0.001, 0.1]},
        },
        "selection": "im",
        "oracle": False,
    }
    options = ("--max-concurrent", 2)
    first = swept(written(**tree, search={"kind": "optuna", "trials": 4}), *options).json
    assert len(first["rows"]) + len(first["skipped"]) == 4
    assert {s["cell"]["method"] for s in first["skipped"]} <= {"gfk"}  # it has no im
    again = swept(written(**tree, search={"kind": "optuna", "trials": 4}), *options).json
    assert again["ran"] == 0
    assert {r["key"] for r in again["rows"]} == {r["key"] for r in first["rows"]}
    more = swept(written(**tree, search={"kind": "optuna", "trials": 6}), *options).json
    assert {r["key"] for r in first["rows"]} <= {r["key"] for r in more["rows"]}
    assert len(more["rows"]) + len(more["skipped"]) == 6
    assert all(row["oracle"] is None for row in more["rows"])


def test_a_matrix_has_every_pair(benchmark, benchmark_b, tmp_path, capfd):
    both = (benchmark, benchmark_b)
    keys = [f"{name}={'null' if v is None else v}" for name, v in TINY.items()]
    result = call(
        capfd, "matrix", "--methods", "source-only,dann", "--datasets", ",".join(map(str, both)),
        "--config", CONFIGS / "{method}.yaml", "--store", tmp_path / "store", "--json", *keys,
        "transfer.protocol=inductive",
    ).json  # fmt: skip
    assert states(result) == {"finished": 8}
    pairs = {row["cell"]["transfer"] for row in result["rows"]}
    assert pairs == {f"{a} -> {b}" for a in both for b in both}
    galleries = {
        row["cell"]["transfer"].split(" -> ")[1]: row["config"]["data"]["gallery"]["root"]
        for row in result["rows"]
    }
    assert all(target == root for target, root in galleries.items())
    page = Path(result["page"]).read_text()
    for row in result["rows"]:
        assert f"{row['metrics']['mAP']:.3f}"[1:] in page  # written in its cell of the matrix
