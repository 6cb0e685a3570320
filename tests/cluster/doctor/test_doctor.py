"""`img2shape doctor`: every check with a planted fault and with a healthy machine."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from cluster.doctor import data, installation, machine, need, network, storage
from cluster.doctor.findings import GIB, Finding, error, ok, size, summary
from tests.command import CONFIGS, call, small
from trainer.config import load_config
from trainer.inputs.open_data import OpenData

CONFIG = CONFIGS / "astn.yaml"
GPU = machine.Gpus("570.10", "12.8", (80 * GIB, 80 * GIB))


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def test_packages() -> None:
    asked = {
        "img2shape": ["torch<2.14,>=2.11", "Ray>=2.55", 'deepspeed>=0.19; extra == "deepspeed"'],
        "torchvision": ["torch==2.13.0", 'scipy; extra == "scipy"'],
    }

    def check(**versions: str) -> list[Finding]:
        return installation.check_packages(asked, versions)

    assert levels(check(torch="2.13.0+cpu", ray="2.60.0")) == ["ok"]
    old, absent, pair = check(torch="2.9.1")
    assert "torch 2.9.1 is installed" in old.message
    assert old.remedy == 'pip install "torch<2.14,>=2.11"'
    assert (absent.level, "needs Ray>=2.55" in absent.message) == ("error", True)
    assert (pair.level, "torchvision needs torch==2.13.0" in pair.message) == ("error", True)
    assert levels(check(torch="2.13.0", ray="2.60.0", deepspeed="0.9")) == ["warning"]


def test_the_requirements_are_the_packages_own() -> None:
    asked, versions = installation.look_at_packages()
    assert asked["img2shape"]
    assert any(text.startswith("torch") and "==" in text for text in asked["torchvision"])
    assert levels(installation.check_packages(asked, versions)) == ["ok"]


@pytest.mark.parametrize(
    ("failure", "level"),
    [
        (None, "ok"),
        ("operator torchvision::nms does not exist", "note"),
        ("libcudart.so.13: cannot open", "error"),
    ],
)
def test_torch_and_torchvision(failure, level) -> None:
    assert installation.check_torchvision(failure).level == level


def test_what_the_engine_refuses() -> None:
    assert levels(installation.check_engine(load_config(CONFIG))) == ["ok"]
    (found,) = installation.check_engine(load_config(CONFIG, ["optimizer.accumulate=7"]))[:1]
    assert (found.level, "optimizer.accumulate" in found.message) == ("error", True)
    assert found.remedy


@pytest.mark.parametrize(
    ("gpus", "workers", "level", "said"),
    [
        (GPU, 2, "ok", "2 GPUs"),
        (GPU, 1, "note", "1 of them used"),
        (GPU, 4, "warning", "would train on CPUs"),
        (machine.Gpus(None, "12.8"), 2, "note", "none here"),
        (machine.Gpus("570.10", None), 1, "warning", "a build for CPUs alone"),
        (machine.Gpus("470.1", "13.0", (), "driver too old"), 1, "error", "driver too old"),
    ],
)
def test_gpus(gpus, workers, level, said) -> None:
    found = machine.check_gpus(gpus, workers=workers)
    assert (found.level, said in found.message) == (level, True), found


def test_workers_elsewhere_are_not_held_against_the_gpus_here() -> None:
    assert machine.check_gpus(GPU, workers=16, local=False).level == "ok"


@pytest.mark.parametrize(
    ("free", "level"),
    [(None, "note"), (GIB, "ok"), (64 << 20, "error"), (300 << 20, "warning")],
)
def test_shared_memory(free, level) -> None:
    found = machine.check_shared_memory(free, loader_bytes=100 << 20, store_bytes=256 << 20)
    assert found.level == level


def test_open_files_and_threads() -> None:
    assert machine.check_open_files(65536, processes=4).level == "ok"
    assert machine.check_open_files(-1, processes=4).level == "ok"
    assert machine.check_open_files(1024, processes=4).level == "warning"

    def threads(variable: str | None, workers: int, asked: int | None = None) -> Finding:
        environment = {} if variable is None else {"OMP_NUM_THREADS": variable}
        return machine.check_threads(environment, cores=4, workers=workers, threads=asked)

    assert threads(None, 4).level == "ok"
    assert threads("2,1", 2).level == "ok"
    assert threads("4", 2).level == "warning"
    assert threads("many", 2).level == "error"
    crowded = threads("1", 2, asked=3)
    assert (crowded.level, crowded.remedy) == ("warning", "training.threads=2")


@pytest.mark.parametrize(
    ("need_bytes", "level"), [(1 * GIB, "ok"), (9 * GIB, "warning"), (11 * GIB, "error")]
)
def test_memory(need_bytes, level) -> None:
    assert machine.check_memory(need_bytes, 10 * GIB, what="memory", each="").level == level


def test_what_the_machine_says_is_plausible() -> None:
    assert machine.free_memory_bytes() > 1 << 20
    assert machine.cores() >= 1
    assert machine.open_file_limit() != 0


def test_a_container_has_less_memory_than_its_machine(tmp_path, monkeypatch) -> None:
    (tmp_path / "max").write_text("3000\n")
    (tmp_path / "used").write_text("1000\n")
    monkeypatch.setattr(machine, "_CGROUP", (str(tmp_path / "max"), str(tmp_path / "no")))
    monkeypatch.setattr(machine, "_CGROUP_USED", (str(tmp_path / "used"), str(tmp_path / "no")))
    assert machine.free_memory_bytes() == 2000
    (tmp_path / "max").write_text("max\n")
    assert machine.free_memory_bytes() > 1 << 20


def test_folders(tmp_path: Path) -> None:
    found = storage.look_at_folder(tmp_path / "a" / "b")
    assert found.failure is None
    assert found.free_bytes > 0
    assert abs(found.ahead_seconds) < 5
    assert not list(tmp_path.iterdir()), "the probe is left"
    (tmp_path / "file").write_text("")
    blocked = storage.look_at_folder(tmp_path / "file" / "run")
    assert storage.check_folder(blocked, what="x", need_bytes=0, option="--out").level == "error"

    def room(free: int) -> str:
        folder = storage.Folder(tmp_path, free)
        return storage.check_folder(folder, what="x", need_bytes=GIB, option="--out").level

    assert [room(free * GIB) for free in (0, 1, 3)] == ["error", "warning", "ok"]


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    found = storage.look_at_folder(tmp_path)
    assert found.failure == "Permission denied"
    finding = storage.check_folder(found, what="run folder", need_bytes=0, option="--out")
    assert finding.level == "error"
    assert "--out" in finding.remedy


def test_a_file_system_with_another_clock(tmp_path: Path, monkeypatch: Any) -> None:
    real = storage.time.time
    monkeypatch.setattr(storage.time, "time", lambda: real() + 90)
    found = storage.look_at_folder(tmp_path)
    assert found.ahead_seconds == pytest.approx(-90, abs=20)
    assert storage.check_clock(found.ahead_seconds, whose="disk").level == "error"


@pytest.mark.parametrize(
    ("ahead", "level"), [(0.4, "ok"), (-0.4, "ok"), (9, "warning"), (-300, "error")]
)
def test_clocks(ahead, level) -> None:
    assert storage.check_clock(ahead, whose="node").level == level
    (found,) = network.check_node_clocks({"10.0.0.7": ahead})
    assert (found.level, "10.0.0.7" in found.message) == (level, True)


def test_data() -> None:
    assert data.check_reading(["d"], seconds=0.1).level == "ok"
    assert data.check_reading(["d"], seconds=60).level == "warning"
    assert levels(data.check_spread({"a": 8}, ranks=4, loader_workers=2)) == ["ok"]
    assert levels(data.check_spread({"a": 4}, ranks=4, loader_workers=2)) == ["note"]
    assert levels(data.check_spread({"a": 8, "b": 3}, ranks=4, loader_workers=0)) == ["warning"]
    assert levels(data.check_quarantine({"d": (0, 100)})) == ["ok"]
    assert levels(data.check_quarantine({"d": (1, 100)})) == ["note"]
    assert levels(data.check_quarantine({"d": (2, 100)})) == ["warning"]


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        taken = network.taken_ports("127.0.0.1", port)
        assert taken[0] == port
        assert network.check_ports(taken, host="h", first=port).level == "note"
        assert network.reaches(network.Address("127.0.0.1", port)) is None
    assert network.reaches(network.Address("127.0.0.1", port)) is not None
    assert network.check_ports([], host="h", first=9400).level == "ok"
    assert network.check_ports([], host="h", first=0).level == "ok"
    assert network.check_ports(list(range(100)), host="h", first=9400).level == "error"


def test_exposure_and_cluster() -> None:
    assert network.check_host("127.0.0.1").level == "ok"
    assert network.check_host("0.0.0.0").level == "warning"
    assert network.check_host("0.0.0.0", in_pod="10.0.0.1").level == "note"
    assert network.check_cluster("a:1", failure=None).level == "ok"
    assert network.check_cluster("a:1", failure="refused").level == "error"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1:6379", ("10.0.0.1", 6379)),
        ("ray://head:10001", ("head", 10001)),
        ("http://head", ("head", 8265)),
        ("[fd00::1]:6379", ("fd00::1", 6379)),
        ("auto", None),
        ("", None),
    ],
)
def test_addresses(text, address) -> None:
    assert network.address_of(text) == (address and network.Address(*address))


def test_tokens(tmp_path: Path) -> None:
    def look(**variables: str) -> network.Token:
        return network.look_at_token(variables, home=tmp_path)

    off, here = "10.0.0.1", "127.0.0.1"
    assert network.check_token(look(), host=None).level == "ok"
    assert network.check_token(look(), host=here).level == "ok"
    assert network.check_token(look(), host=off).level == "warning"
    assert network.check_token(look(RAY_AUTH_TOKEN="secret"), host=off).level == "ok"
    assert "secret" not in repr(look(RAY_AUTH_TOKEN="secret"))
    disabled = look(RAY_AUTH_MODE="disabled")
    assert network.check_token(disabled, host=off).level == "warning"
    path = tmp_path / "token"
    named = {"RAY_AUTH_TOKEN_PATH": str(path)}
    assert network.check_token(look(**named), host=off).level == "error"
    path.write_text("secret")
    path.chmod(stat.S_IRUSR)
    assert network.check_token(look(**named), host=off).level == "ok"
    path.chmod(0o644)
    assert network.check_token(look(**named), host=off).remedy == f"chmod 600 {path}"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("")
    assert network.check_token(look(), host=off).level == "error"


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_estimate_is_near_what_autograd_keeps(benchmark, optimizer) -> None:
    import torch

    from cluster.complexity import model_complexity
    from cluster.doctor.data import gather
    from trainer.building import build_method

    options = small(benchmark, optimizer__kind=optimizer)
    config = load_config(CONFIG, options)
    found = gather(config, workers=1).need
    method = build_method(config, num_classes=len(OpenData(config).classes))
    parameters = sum(p.numel() for p in method.parameters())
    assert found.state == {"sgd": 4, "adam": 5}[optimizer] * 4 * parameters
    assert found.checkpoint == {"sgd": 2, "adam": 3}[optimizer] * 4 * parameters
    weights = {p.untyped_storage().data_ptr() for p in method.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no place is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    rows = 10 + 10 * 2  # a stream of pictures, and one of shapes with two views
    side = config.network.input_size
    image = torch.zeros(rows, 3, side, side)
    method.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        method.trace(image, image)
    measured = sum(storage.nbytes() for storage in kept.values())
    assert 1 < found.activations / measured < 3, (found, measured)
    model = model_complexity(config)
    less = load_config(CONFIG, [*options, "strategy.micro_batch=5"])
    facts = gather(less, workers=1)
    assert facts.need.activations == pytest.approx(found.activations * 5 / rows, rel=0.01)
    split = gather(config, workers=2).need
    assert split.activations == pytest.approx(found.activations / 2, rel=0.1)
    assert model["parameters"] == parameters
    assert found.host(2) == 2 * found.host(1)
    assert found.host(1, gpus=True) + found.gpu(cache="none") == found.host(1)
    assert isinstance(found, need.Need)


def test_the_summary_counts() -> None:
    result = summary([ok("a", "fine"), error("b", "bad", "mend")])
    assert result["ok"] is False
    assert result["counts"] == {"error": 1, "warning": 0, "note": 0, "ok": 1}
    assert [size(3 * GIB), size(1 << 20)] == ["3.0 GiB", "1 MiB"]


def test_the_command_without_a_config(capfd, tmp_path) -> None:
    found = call(capfd, "doctor", "--out", tmp_path / "run", "--json").json
    checks = {finding["check"] for finding in found["findings"]}
    assert {"packages", "torchvision", "gpus", "open files", "run folder"} <= checks
    assert found["ok"]
    assert not list(tmp_path.iterdir())


def test_the_command_on_a_run(capfd, benchmark, tmp_path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        options = [*small(benchmark), f"monitoring.port={port}"]
        shown = call(capfd, "doctor", CONFIG, *options, "--workers", 2, "--out", tmp_path / "run")
    assert shown.code == 0, shown.out
    for line in ("ok: data: ", "ok: memory: about", "ok: quarantine", "warning: shards: 2 proc"):
        assert f"\n{line}" in shown.out, shown.out
    assert f"note: ports: 127.0.0.1:{port} is taken" in shown.out
    assert not list(tmp_path.iterdir())


def test_faults_of_a_run_are_findings(capfd, benchmark, tmp_path) -> None:
    (tmp_path / "runs").write_text("a file")
    gone = small(tmp_path / "gone")
    shown = call(capfd, "doctor", CONFIG, *gone, "--out", tmp_path / "runs")
    assert shown.code == 1
    assert "error: data: " in shown.out
    assert "error: run folder: " in shown.out
    assert shown.out.splitlines()[-1].startswith("2 errors")
    assert not shown.err


def test_a_large_trunk_from_scratch_is_a_warning(capfd, tmp_path) -> None:
    large = [*small(tmp_path / "gone"), "network.backbone=resnet50"]
    shown = call(capfd, "doctor", CONFIG, *large, "--out", tmp_path)
    assert "warning: trunk: network.weights: none trains resnet50 from scratch" in shown.out
    assert "; network.weights=imagenet; see" in shown.out


@pytest.mark.ray
def test_nodes_tell_their_time(ray_cluster) -> None:
    assert levels(network.check_node_clocks(network.node_clocks())) == ["ok"]


def test_a_cluster_that_does_not_answer(capfd, tmp_path, monkeypatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    monkeypatch.setitem(os.environ, "RAY_ADDRESS", f"127.0.0.1:{port}")
    shown = call(capfd, "doctor", "--out", tmp_path)
    assert shown.code == 1
    assert f"error: ray cluster: RAY_ADDRESS=127.0.0.1:{port} does not answer" in shown.out


@pytest.mark.parametrize(
    "arguments", [("nowhere.yaml",), (CONFIG, "training.stepz=3"), ("--workers", "4-2")]
)
def test_bad_input(capfd, arguments) -> None:
    assert call(capfd, "doctor", *arguments).complaint
