"""Compiled trunks: the same numbers as eager ones, one compilation for all batch sizes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.spawn import run_processes
from tests.trainer.networks.test_micro_batches import network, pictures, step
from trainer.building import build_method
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.engines.trunk_setup import set_passes
from trainer.inputs.open_data import OpenData
from trainer.loop import train
from trainer.runs.checkpoint import newest_checkpoint
from trainer.runs.run_folder import RunFolder

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None,
    reason="torch.compile needs a C++ compiler on the CPU",
)


def graphs() -> int:
    """Graphs compiled so far."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    largest = max(float(a.abs().max()) for a in expected if a.numel())
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-9 * largest)


@pytest.mark.slow
@needs_compiler
def test_value_and_gradient_are_the_eager_ones_after_one_compilation():
    net, before = network(), graphs()
    keys = list(net.state_dict())
    for n, m, size in ((7, 3, None), (2, 5, None), (7, 3, 5), (1, 0, None), (0, 0, None)):
        rows = {"images": pictures(n), "shapes": pictures(m, 4), "joint": True}
        net.trunk.compiled, net.trunk.micro_batch = False, None
        expected = step(net, **rows)
        net.trunk.compiled, net.trunk.micro_batch = True, size
        assert_close(step(net, **rows), expected)
    assert graphs() == before + 1
    assert list(net.state_dict()) == keys

    net.eval()
    with torch.no_grad():
        compiled = [net.embed_images(pictures(n)) for n in (2, 5)]
        net.trunk.compiled = False
        assert_close(compiled, [net.embed_images(pictures(n)) for n in (2, 5)])
    assert graphs() == before + 2


def configuration(root: Path, **training) -> RunConfig:
    compile_ = training.pop("compile", False)
    return parse_config(
        {
            "method": "source-only",
            "data": {"root": str(root), "train_views": 2},
            "network": {"tiny_width": 8, "embedding": 16, "image_size": 32},
            "training": {
                "steps": 4,
                "batch": 7,
                "precision": "float64",
                "checkpoint_every": 2,
                "threads": 1,
                **training,
            },
            "strategy": {"compile": compile_},
        }
    )


def run(root: Path, path: Path, *, compiled: tuple[bool, ...]) -> dict[str, np.ndarray]:
    """Final weights of a run that is started as often, two steps at a time."""
    for on in compiled:
        folder, asked = RunFolder(path), iter(range(9))
        config = configuration(root, compile=on)
        if not path.exists():
            folder.claim(config, fingerprint=OpenData(config).fingerprint)
        pause = len(compiled) > 1
        train(config, folder, stop=(lambda a=asked: next(a) >= 2) if pause else None)
    found = newest_checkpoint(RunFolder(path).checkpoints)
    assert found is not None
    return {name: value.numpy() for name, value in found.state["method"].items()}


@pytest.mark.slow
@needs_compiler
def test_a_checkpoint_continues_compiled_or_not(benchmark, tmp_path):
    eager = run(benchmark, tmp_path / "eager", compiled=(False,))
    for name, order in (("first", (True, False)), ("then", (False, True))):
        mixed = run(benchmark, tmp_path / name, compiled=order)
        assert mixed.keys() == eager.keys()
        for key, value in eager.items():
            np.testing.assert_allclose(mixed[key], value, rtol=1e-9, atol=1e-9, err_msg=key)


def weights_on_rank(
    rank: int, world_size: int, root: Path, path: Path, compiled: bool
) -> dict[str, np.ndarray]:
    config = configuration(root, compile=compiled)
    train(config, RunFolder(path))
    found = newest_checkpoint(RunFolder(path).checkpoints)
    assert found is not None
    return {name: value.numpy() for name, value in found.state["method"].items()}


@pytest.mark.slow
@needs_compiler
def test_two_processes_train_compiled_as_eagerly(benchmark, tmp_path):
    for name in ("eager", "compiled"):
        RunFolder(tmp_path / name).claim(
            configuration(benchmark), fingerprint=OpenData(configuration(benchmark)).fingerprint
        )
    eager = run_processes(weights_on_rank, 2, benchmark, tmp_path / "eager", False)
    compiled = run_processes(weights_on_rank, 2, benchmark, tmp_path / "compiled", True)
    for key, value in eager[0].items():
        np.testing.assert_allclose(compiled[0][key], value, rtol=1e-9, atol=1e-9, err_msg=key)


@pytest.mark.slow
def test_a_machine_without_compiler_is_told_so_before_training():
    import torch._inductor.config as inductor

    config = configuration(Path("absent"), compile=True)
    method = build_method(config, num_classes=3)
    torch._dynamo.reset()  # what other tests have compiled
    with (
        inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(ConfigError, match=r"strategy\.compile.*compiler"),
    ):
        set_passes(method, config, device=torch.device("cpu"))


def test_statistics_over_workers_are_not_compiled(monkeypatch):
    monkeypatch.setattr("trainer.synchronised.collectives.world_size", lambda: 2)
    network = {"backbone": "resnet18", "embedding": 8}
    config = parse_config(
        {"method": "source-only", "network": network, "strategy": {"compile": True}}
    )
    with pytest.raises(ConfigError, match=r"strategy\.compile.*batch_norm"):
        set_passes(torch.nn.Identity(), config, device=torch.device("cpu"))


def test_code_that_was_seen_to_lose_gradients_is_refused():
    network = {"backbone": "alexnet-tv"}
    config = parse_config(
        {"method": "source-only", "network": network, "strategy": {"compile": True}}
    )
    with pytest.raises(ConfigError, match=r"strategy\.compile.*alexnet-tv"):
        set_passes(torch.nn.Identity(), config, device=torch.device("cpu"))
