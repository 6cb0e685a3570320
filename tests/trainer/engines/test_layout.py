"""The memory layout of trunks changes nothing that is saved, and results by rounding alone."""

from __future__ import annotations

import pytest
import torch

from tests.trainer.methods.test_methods import SIDE, local_batch
from trainer.building import build_method
from trainer.config import parse_config
from trainer.engines.data_parallel import DataParallel
from trainer.engines.trunk_setup import set_layout
from trainer.methods import Now
from trainer.runs.checkpoint_writer import snapshot
from trainer.sections import OptimizerConfig

CPU = torch.device("cpu")


def trained(channels_last: bool | None, *, backbone: str = "tiny", state=None, kind: str = "sgd"):
    """Method, strategy, losses and gradients of two steps; from ``state`` where it is given."""
    config = parse_config(
        {
            "method": {"name": "astn"},
            "network": {
                **({"backbone": backbone} if backbone != "tiny" else {"tiny_width": 8}),
                **{"embedding": 16, "image_size": SIDE, "weights": "none"},
            },
            "training": {"precision": "float64", "seed": 5},
        }
    )
    method, strategy = build_method(config, num_classes=4), DataParallel()
    set_layout(method, channels_last=channels_last, device=CPU)
    if state:
        method.load_state_dict(state["method"])
    strategy.prepare(method, OptimizerConfig(kind=kind, learning_rate=0.01))  # pyright: ignore[reportArgumentType]
    if state:
        strategy.load_state_dict(state)
    terms, gradients = {}, {}
    for step in range(2):
        (update,) = method.updates(step)
        with strategy.only(update):
            losses = method.train()(local_batch("astn", step, 0, 1), Now(step, 0.3))
            strategy.backward(losses.total)
        terms |= {f"{step} {name}": value.item() for name, value in losses.terms.items()}
        gradients |= {f"{step} {n}": g.clone() for n, g in strategy.gradients().items()}
        strategy.step(factor=1.0)
    return method, strategy, terms, gradients


def saved(method, strategy):
    return snapshot({"method": method.state_dict(), **strategy.state_dict()})


def tensors(state):
    for value in state.values():
        if isinstance(value, dict):
            yield from tensors(value)
        elif isinstance(value, torch.Tensor):
            yield value


@pytest.mark.parametrize("backbone", ["tiny", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_losses_and_gradients_agree(backbone):
    plain, last = (trained(layout, backbone=backbone) for layout in (False, True))
    assert plain[2] == pytest.approx(last[2], rel=1e-9)
    scale = max(float(g.abs().max()) for g in plain[3].values())
    for name, gradient in plain[3].items():
        assert float((gradient - last[3][name]).abs().max()) < 1e-9 * scale, name


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("first", [False, True])
def test_a_checkpoint_does_not_tell_the_layout_and_is_loaded_by_both(first, kind):
    state = saved(*trained(first, kind=kind)[:2])
    assert all(t.is_contiguous() for t in tensors(state))
    same, other = (trained(layout, state=state, kind=kind) for layout in (first, not first))
    assert same[2] == pytest.approx(other[2], rel=1e-9)
    method, strategy = other[:2]
    for parameter in method.parameters():  # fused kernels want one layout for a parameter's state
        for key, value in strategy.optimizer.state[parameter].items():
            if key != "step":
                assert value.stride() == parameter.stride()


def test_the_trunks_have_the_layout():
    method = trained(True)[0]
    trunk, weight = method.network.trunk, method.network.trunk.conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()
    _, maps = trunk.features(torch.randn(2, 3, SIDE, SIDE).double(), keep=trunk.stages)
    for stage in trunk.stages:
        assert maps[stage].is_contiguous(memory_format=torch.channels_last), stage
    assert trained(False)[0].network.trunk.conv2.weight.is_contiguous()


def test_by_default_the_cpu_keeps_each_trunks_own_layout():
    method = trained(None)[0]
    assert method.network.trunk.memory_format == torch.channels_last  # tiny's choice
    assert method.network.trunk.conv2.weight.is_contiguous()
