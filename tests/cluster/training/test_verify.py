"""``img2shape verify``: passes what is invariant, finds what is not, and never hangs."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
from importlib.util import find_spec

import pytest
import torch

from cluster.training import verify_processes
from cluster.training.verify import parse_strategies, parse_world_sizes
from tests.command import call
from tests.spawn import start_server
from trainer.config import ConfigError
from trainer.loop import Trainer
from trainer.methods import METHODS
from trainer.methods.source_only import SourceOnly
from trainer.synchronised import collectives
from trainer.verify import (
    BATCHES,
    QUANTITIES,
    STRATEGIES,
    Difference,
    Recorder,
    compare,
    probe,
    probe_configs,
)

serve = verify_processes._serve


class LocalMean(SourceOnly):
    """The mistake this command is for: a mean over this rank's rows."""

    name = "local-mean"

    def losses(self, batch, now):
        losses = super().losses(batch, now)
        rows = batch["source_images"]
        features, _ = self.embed(rows, None)
        losses.add("size", features.square().sum() / max(1, len(features)))
        return losses


class FailsOnOneRank(SourceOnly):
    """The other ranks wait in a collective that this one never joins."""

    name = "fails-on-one-rank"

    def losses(self, batch, now):
        if collectives.rank() == 1:
            raise ZeroDivisionError("planted\nfault")
        return super().losses(batch, now)


class EndsItsProcess(SourceOnly):
    name = "ends-its-process"

    def losses(self, batch, now):
        if collectives.rank() == 1:
            os._exit(7)
        return super().losses(batch, now)


class LeavesOneRankBehind(SourceOnly):
    """One rank asks for something that the others do not; nothing raises."""

    name = "leaves-one-rank-behind"

    def finish(self, walk):
        if collectives.rank() == 0:
            collectives.barrier()
            collectives.barrier()


PLANTED = (LocalMean, FailsOnOneRank, EndsItsProcess, LeavesOneRankBehind)


def serve_planted(*arguments):
    """Body of a process that knows the planted methods too."""
    METHODS.update({cls.name: cls for cls in PLANTED})
    verify_processes.TIMEOUT_SECONDS = 8.0
    serve(*arguments)


def method_options(*names: str) -> list[str]:
    return [word for name in names for word in ("--method", name)]


@pytest.mark.slow
def test_two_methods_are_the_same_on_two_processes(benchmark, capfd):
    done = call(
        capfd,
        *("verify", *method_options("astn", "dca"), "--world-sizes", "1,2", "--data", benchmark),
        "--json",
    )
    assert done.json["ok"] is True
    result = done.json["strategies"]["ddp"]
    assert result["ok"] is True
    assert result["refused"] == {}
    assert result["tolerance"] == 1e-9
    assert result["failures"] == []
    assert result["errors"] == {}
    assert list(result["methods"]) == ["astn", "dca"]
    for method in result["methods"].values():
        assert list(method) == ["world_sizes"]
        assert list(method["world_sizes"]) == ["2"]
        values = method["world_sizes"]["2"]
        assert list(values) == list(QUANTITIES)
        assert all(0 <= value < 1e-9 for value in values.values())
        assert values["grad"] > 0  # a sum in another order: they did run apart
    assert "verifying" in done.err


@pytest.mark.slow
def test_planted_faults_are_found_and_named_and_the_rest_goes_on(benchmark, monkeypatch, capfd):
    """After each failure new processes start; here they fork from one that has imported torch."""
    start_server()
    forking = multiprocessing.get_context("forkserver")
    monkeypatch.setattr(verify_processes.mp, "get_context", lambda _method: forking)
    for cls in PLANTED:
        monkeypatch.setitem(METHODS, cls.name, cls)
    monkeypatch.setattr(verify_processes, "_serve", serve_planted)
    names = [*(cls.name for cls in PLANTED), "source-only"]
    done = call(
        capfd,
        *("verify", *method_options(*names), "--world-sizes", "2", "--data", benchmark, "--json"),
    )
    assert done.code == 1
    assert json.loads(done.out)["ok"] is False
    result = json.loads(done.out)["strategies"]["ddp"]
    assert result["ok"] is False
    found = {f["quantity"]: f for f in result["failures"]}
    assert {f["method"] for f in result["failures"]} == {"local-mean"}
    assert {"grad", "loss"} <= set(found)
    assert found["loss"]["world_size"] == 2
    assert found["loss"]["tensor"].endswith((", size", ", total"))
    assert result["methods"]["local-mean"]["world_sizes"]["2"]["loss"] > 1e-3
    errors = result["errors"]
    assert errors.keys() == {cls.name for cls in PLANTED[1:]}
    assert errors["fails-on-one-rank"] == "W=2 ZeroDivisionError: planted fault"
    assert errors["ends-its-process"] == "W=2 process 1 ended with exit code 7"
    assert errors["leaves-one-rank-behind"].startswith("W=2 ")
    assert max(result["methods"]["source-only"]["world_sizes"]["2"].values()) < 1e-9
    told = done.err.splitlines()[-1]
    assert told.startswith("img2shape: 4 of 5 methods failed: local-mean (W=2 grad ")
    assert all(name in told for name in errors)
    assert "source-only" not in told


def test_a_table_for_people(benchmark, monkeypatch, capfd):
    found = {
        "methods": {
            "good": {"world_sizes": {"3": {"grad": 1e-16, "loss": 0.0, "state": 2e-15}}},
            "bad": {"world_sizes": {"2": {"grad": 1e-16, "loss": 0.25, "state": 0.5}}},
            "broken": {"world_sizes": {}},
            "unfit": {"world_sizes": {}},
        },
        "ok": False,
        "tolerance": 1e-9,
        "dtype": "float64",
        "failures": [
            {"method": "bad", "world_size": 2, "quantity": q, "difference": d, "tensor": "x"}
            for q, d in (("loss", 0.25), ("state", 0.5))
        ],
        "errors": {"broken": "W=2 ValueError: [no] way"},
        "refused": {"unfit": "option: reason; remedy"},
    }
    result = {"ok": False, "strategies": {"ddp": found, "deepspeed-1": found}}
    monkeypatch.setattr(
        "cluster.training.verify.verify", lambda *_args, **_options: copy.deepcopy(result)
    )
    monkeypatch.setattr("cluster.data_jobs.make_benchmark", lambda *_args, **_options: None)
    done = call(capfd, "verify")
    assert done.code == 1
    lines = {line.split()[0]: line.split() for line in done.out.splitlines() if line.split()}
    assert lines["good"] == ["good", "3", "1.0e-16", "0.0e+00", "2.0e-15", "ok"]
    assert lines["bad"][:5] == ["bad", "2", "1.0e-16", "2.5e-01", "5.0e-01"]
    assert lines["bad"][5:] == ["differs:", "loss,", "state"]
    assert "W=2 ValueError: [no] way" in " ".join(lines["broken"])
    assert "refused: option: reason; remedy" in " ".join(lines["unfit"])
    assert done.out.index("strategy ddp") < done.out.index("strategy deepspeed-1")
    assert done.err == (
        "img2shape: 2 of 4 methods failed: bad (W=2 loss 2.5e-01, W=2 state 5.0e-01, deepspeed-1 "
        "W=2 loss 2.5e-01, deepspeed-1 W=2 state 5.0e-01); broken (W=2 ValueError: [no] way, "
        "deepspeed-1 W=2 ValueError: [no] way)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--method", "atsn"], ["'atsn'", "did you mean 'astn'"]),
        (["--world-sizes", "two"], ["--world-sizes", "1,2,3"]),
        (["--world-sizes", "2,,3"], ["--world-sizes", "1,2,3"]),
        (["--world-sizes", "0,2"], ["--world-sizes", "1..64"]),
        (["--world-sizes", "-2"], ["--world-sizes"]),
        (["--world-sizes", "1000"], ["--world-sizes", "1..64"]),
        (["--world-sizes", "1"], ["--world-sizes", "above 1"]),
        (["--dtype", "float16"], ["--dtype", "float64 or float32"]),
        (["--strategy", "deepsped-1"], ["--strategy", "did you mean 'deepspeed-1'"]),
        (["--data", "absent"], ["absent", "img2shape data make"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, told, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    for flags in ([], ["--json"]):
        done = call(capfd, "verify", *arguments, *flags)
        assert all(word in done.complaint for word in told), done.complaint
        assert done.out == ""
    assert not list(tmp_path.iterdir())


def test_strategies_are_named_once_in_a_fixed_order():
    assert parse_strategies(["deepspeed-3,ddp", "deepspeed-1"]) == [
        "ddp",
        "deepspeed-1",
        "deepspeed-3",
    ]
    assert parse_strategies(["all"]) == list(STRATEGIES)


def test_what_a_strategy_cannot_do_is_reported_and_the_rest_goes_on(benchmark, monkeypatch, capfd):
    monkeypatch.setattr("cluster.training.verify._measure", lambda *_args, **_options: None)
    strategies = ("--strategy", "ddp,deepspeed-2", "--dtype", "float64")
    options = ("--method", "dann", "--data", benchmark, "--json")
    found = call(capfd, "verify", *strategies, *options).json["strategies"]
    assert found["ddp"]["refused"] == {}
    assert "float32" in found["deepspeed-2"]["refused"]["dann"]


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("deepspeed"), reason="deepspeed is not installed")
def test_deepspeed_is_held_against_plain_training_also_in_one_process(benchmark, capfd):
    options = ("--strategy", "deepspeed-3", "--world-sizes", "2", "--data", benchmark, "--json")
    found = call(capfd, "verify", *method_options("astn", "dca"), *options).json
    result = found["strategies"]["deepspeed-3"]
    assert result["dtype"] == "float32"
    for method in result["methods"].values():
        assert list(method["world_sizes"]) == ["1", "2"]
        assert all(values["grad"] > 0 for values in method["world_sizes"].values())


def test_world_sizes_are_sorted_and_one_is_the_reference():
    assert parse_world_sizes("3, 1,2,3") == [2, 3]
    with pytest.raises(ConfigError):
        parse_world_sizes("")


def test_the_built_in_data_are_made_when_missing(benchmark, tmp_path, monkeypatch, capfd):
    """Where they are made is where they are looked for; the making itself is tested elsewhere."""
    asked = []

    def make(out, *, size, seed):
        asked.append((size, seed))
        out.parent.mkdir()
        out.symlink_to(benchmark)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cluster.data_jobs.make_benchmark", make)
    monkeypatch.setattr("cluster.training.verify._measure", lambda *_args, **_options: None)
    result = call(capfd, "verify", "--method", "all", "--json").json
    assert asked == [("smoke", 0)]
    assert result["data"] == str(tmp_path / "data" / "procedural-smoke")
    assert list(result["strategies"]["ddp"]["methods"]) == list(METHODS)


def differing(method: str, value: float) -> list[dict[str, Difference]]:
    return [{q: Difference(value, f"{method}'s weight") for q in QUANTITIES}]


@pytest.mark.parametrize(("dtype", "seeds"), [("float64", 1), ("float32", 3)])
def test_in_float32_a_fault_must_show_at_every_seed(dtype, seeds, benchmark, monkeypatch, capfd):
    """Rounding may flip a ReLU once; what a method does wrong it does at every seed."""
    measured = []

    def measure(names, world_sizes, outcome, *, seed):
        measured.append((seed, list(names)))
        for name in names:
            flipped = name == "dann" and seed == 0
            value = 0.01 if name == "astn" or flipped else 1e-17
            outcome.add(name, world_sizes[0], differing(name, value))

    monkeypatch.setattr("cluster.training.verify._measure", measure)
    names = method_options("source-only", "dann", "astn")
    options = ("--world-sizes", "2", "--dtype", dtype, "--data", benchmark, "--json")
    done = call(capfd, "verify", *names, *options)
    assert done.code == 1
    retried = [["source-only", "dann", "astn"], ["dann", "astn"], ["astn"]]
    assert measured == list(enumerate(retried[:seeds]))
    result = json.loads(done.out)["strategies"]["ddp"]
    assert list(result["methods"]) == ["source-only", "dann", "astn"]
    failed = dict.fromkeys(f["method"] for f in result["failures"])
    assert list(failed) == (["dann", "astn"] if seeds == 1 else ["astn"])
    assert len(result["failures"]) == 3 * len(failed)
    assert all(m["world_sizes"]["2"] for m in result["methods"].values())


# ---- the measure -------------------------------------------------------------------------------


def test_a_probe_is_the_real_loop_with_every_update_and_the_last_fit(benchmark, monkeypatch):
    ran = []
    run = Trainer.run

    def spy(self):
        steps = run(self)
        updates = [u.name for step in range(steps) for u in self.method.updates(step)]
        ran.append((self.config.training.batch, steps, updates))
        assert isinstance(self.strategy, Recorder)
        return steps

    monkeypatch.setattr(Trainer, "run", spy)
    dca = probe("dca", root=benchmark, precision="float64")
    for batch, steps, updates in ran:
        assert steps == 3
        for index in range(steps):
            for update in set(updates):
                name = f"batch {batch}: step {index}, update {update}, total"
                assert dca["loss"][name].dtype == torch.float64
    assert {update for _, _, updates in ran for update in updates} == {
        *("sketch", "shape", "discriminator", "transformation")
    }
    coral = probe("coral", root=benchmark, precision="float32")
    assert coral["state"]["batch 7: fit_result.source_map"].abs().max() > 0
    assert [batch for batch, *_ in ran[2:]] == list(BATCHES)
    assert all(v.dtype == torch.float32 for v in coral["grad"].values())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_probe_with_uneven_batches(name, benchmark):
    configs = probe_configs(name, root=benchmark, precision="float64")
    rows = [config.training.batch for config in configs]
    assert max(rows) <= 10
    assert all(any(count % size for count in rows) for size in (2, 3))
    assert min(rows) < 3 or METHODS[name].balanced  # some process of three has no row


def state_of(value: float, **more: torch.Tensor):
    tensors = {"a": torch.tensor([1.0, 10.0]), "b": torch.tensor([value]), **more}
    return {quantity: dict(tensors) for quantity in QUANTITIES}


def test_settings_reach_every_process(benchmark, capfd):
    """With a frozen trunk no gradient of the trunk is compared, since there is none."""
    overrides = ("network.train=head",)
    for config in probe_configs("dann", root=benchmark, precision="float64", overrides=overrides):
        assert config.network.train == "head"
    frozen = probe("dann", root=benchmark, precision="float64", overrides=overrides)
    assert not any("trunk" in name for name in frozen["grad"])
    done = call(capfd, "verify", "network.trian=head", "--method", "dann", "--data", benchmark)
    assert done.code == 2
    assert "did you mean 'train'" in done.err


def test_a_difference_is_relative_to_the_largest_number_and_names_the_tensor():
    found = compare(state_of(2.0), state_of(2.5))
    assert {q: d.tensor for q, d in found.items()} == dict.fromkeys(QUANTITIES, "b")
    assert [d.value for d in found.values()] == pytest.approx([0.05] * 3)
    assert [d.value for d in compare(state_of(2.0), state_of(2.0)).values()] == [0.0] * 3


def test_one_changed_label_counts_however_large_the_weights_are():
    one, other = (
        state_of(1e9, labels=torch.tensor([3, label]), empty=torch.empty(0)) for label in (4, 2)
    )
    assert compare(one, other)["state"].value == pytest.approx(0.5)


def test_marks_that_are_not_finite_must_agree():
    nan, inf = torch.tensor([float("nan"), 1.0]), torch.tensor([1.0, float("inf")])
    assert compare(state_of(1.0, x=nan), state_of(1.0, x=nan.clone()))["state"].value == 0
    with pytest.raises(ValueError, match="x is finite in one process only"):
        compare(state_of(1.0, x=nan), state_of(1.0, x=inf))
    with pytest.raises(ValueError, match=r"x is absent, in one process \(2,\)"):
        compare(state_of(1.0, x=nan), state_of(1.0))
    with pytest.raises(ValueError, match=r"x is \(2,\), in one process absent"):
        compare(state_of(1.0), state_of(1.0, x=nan))
