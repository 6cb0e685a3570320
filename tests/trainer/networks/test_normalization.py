"""Global batch norm against nn.BatchNorm2d on the whole batch, in one process and in two."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.spawn import run_processes
from trainer.networks.normalization import (
    FrozenBatchNorm2d,
    GlobalBatchNorm1d,
    GlobalBatchNorm2d,
    convert_batch_norm,
    global_batch_norm,
)
from trainer.synchronised.collectives import all_reduce_sum

CHANNELS = 3


def batches(rows: int) -> tuple[Tensor, Tensor]:
    """A batch and coefficients that make the loss depend on every output."""
    generator = torch.Generator().manual_seed(7)
    shape = (rows, CHANNELS, 4, 5)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + 5
    return x, torch.randn(shape, generator=generator, dtype=torch.float64)


def layer(kind: type[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    made = kind(CHANNELS).double()
    with torch.no_grad():
        assert made.weight is not None
        assert made.bias is not None
        made.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
        made.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return made


def loss_of(y: Tensor, coefficients: Tensor) -> Tensor:
    return (y * coefficients).sum() + (y.pow(3) * coefficients).sum()


def test_statistics_and_gradients_are_those_of_pytorch():
    x, coefficients = batches(6)
    ours_x, theirs_x = x.clone().requires_grad_(), x.clone().requires_grad_()
    theirs, ours = layer(nn.BatchNorm2d), layer(nn.BatchNorm2d)
    expected = theirs(theirs_x)
    loss_of(expected, coefficients).backward()
    y, mean, var, count = global_batch_norm(ours_x, ours.weight, ours.bias, eps=ours.eps)
    loss_of(y, coefficients).backward()
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours_x.grad, theirs_x.grad, rtol=1e-9, atol=1e-11)
    for name in ("weight", "bias"):
        expected_grad = getattr(theirs, name).grad
        torch.testing.assert_close(getattr(ours, name).grad, expected_grad, rtol=1e-11, atol=1e-11)
    assert count == 6 * 4 * 5
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(var, x.var((0, 2, 3), correction=0))


def test_gradcheck():
    x = batches(3)[0].requires_grad_()
    weight = torch.tensor([0.5, 1.0, -2.0], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(CHANNELS, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: global_batch_norm(x, w, b, eps=1e-5)[0], (x, weight, bias)
    )


def test_variance_survives_a_large_mean_in_float32():
    x = batches(8)[0].float() + 3000.0
    var = global_batch_norm(x, None, None, eps=0.0)[2]
    torch.testing.assert_close(
        var.double(), x.double().var((0, 2, 3), correction=0), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("momentum", [0.1, None])
def test_layer_equals_pytorch_over_several_batches(monkeypatch, momentum):
    # Two ranks' code on one rank: the reductions are the identity without a process group.
    monkeypatch.setattr("trainer.networks.normalization.world_size", lambda: 2)
    ours, theirs = layer(GlobalBatchNorm2d), layer(nn.BatchNorm2d)
    ours.momentum = theirs.momentum = momentum
    for rows in (4, 7, 1):
        x = batches(rows)[0]
        torch.testing.assert_close(ours(x), theirs(x))
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)
    x = batches(2)[0]
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_layer_behind_linear_layers_equals_pytorch(monkeypatch):
    monkeypatch.setattr("trainer.networks.normalization.world_size", lambda: 2)
    ours, theirs = GlobalBatchNorm1d(CHANNELS).double(), nn.BatchNorm1d(CHANNELS).double()
    for rows in (4, 7):
        x = batches(rows)[0][:, :, 0, 0]
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(ours(mine), theirs(other))
        ours(mine).pow(3).sum().backward()
        theirs(other).pow(3).sum().backward()
        torch.testing.assert_close(mine.grad, other.grad)
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[key], value)


@pytest.mark.parametrize("rows", [0, 1])
def test_nothing_to_normalise_over_is_finite(rows):
    ours = layer(GlobalBatchNorm2d)
    before = {k: v.clone() for k, v in ours.state_dict().items()}
    x = torch.ones(rows, CHANNELS, 1, 1, dtype=torch.float64, requires_grad=True)
    ours(x).square().sum().backward()
    assert ours.weight.grad is not None
    assert torch.isfinite(ours.weight.grad).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    if rows == 0:
        assert not ours.weight.grad.any()
        for key, value in ours.state_dict().items():
            assert torch.equal(value, before[key])


def _train_two_steps(rank: int, world_size: int, splits: list[list[int]]) -> dict[str, np.ndarray]:
    """Each split is one step: rows of rank 0, rows of rank 1, ..."""
    torch.set_num_threads(1)
    norm = layer(GlobalBatchNorm2d)
    out: dict[str, np.ndarray] = {}
    for step, rows in enumerate(splits):
        x, coefficients = batches(sum(rows))
        start = sum(rows[:rank])
        mine = slice(start, start + rows[rank])
        local = x[mine].clone().requires_grad_()
        y = norm(local)
        norm.zero_grad()
        all_reduce_sum(loss_of(y, coefficients[mine])).backward()
        assert local.grad is not None
        out[f"y{step}"] = y.detach().numpy()
        # Every rank's copy of the loss counts in the backward pass; DDP then divides by W.
        out[f"x_grad{step}"] = (local.grad / world_size).numpy()
        for name, p in norm.named_parameters():
            assert p.grad is not None
            out[f"{name}{step}"] = (all_reduce_sum(p.grad) / world_size).numpy()
    return out | {k: v.numpy() for k, v in norm.state_dict().items()}


def test_two_processes_with_uneven_and_empty_rows_equal_one():
    results = run_processes(_train_two_steps, 2, [[5, 2], [7, 0], [0, 3]])
    norm = layer(nn.BatchNorm2d)
    for step, rows in enumerate((7, 7, 3)):
        x, coefficients = batches(rows)
        x.requires_grad_()
        y = norm(x)
        norm.zero_grad()
        loss_of(y, coefficients).backward()
        for name, expected in (("y", y.detach()), ("x_grad", x.grad)):
            found = np.concatenate([r[f"{name}{step}"] for r in results])
            assert expected is not None
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-9, atol=1e-10)
        for name, p in norm.named_parameters():
            assert p.grad is not None
            np.testing.assert_allclose(results[0][f"{name}{step}"], p.grad.numpy(), rtol=1e-10)
    for key, value in norm.state_dict().items():
        np.testing.assert_allclose(results[0][key], value.numpy(), rtol=1e-12)
        np.testing.assert_array_equal(results[0][key], results[1][key])


def test_frozen_uses_and_keeps_its_statistics():
    frozen = layer(FrozenBatchNorm2d)
    assert frozen.running_mean is not None
    frozen.running_mean.fill_(2.0)
    before = {k: v.clone() for k, v in frozen.state_dict().items()}
    x = batches(4)[0]
    reference = layer(nn.BatchNorm2d).eval()
    reference.load_state_dict(before)
    torch.testing.assert_close(frozen.train()(x), reference(x))
    for key, value in frozen.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("mode", "kind"), [("global", GlobalBatchNorm2d), ("frozen", FrozenBatchNorm2d)]
)
def test_conversion_keeps_parameters_and_names(mode, kind):
    inner = layer(nn.BatchNorm2d)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Sequential(inner, nn.ReLU())).double()
    names = list(model.state_dict())
    converted = convert_batch_norm(model, mode)
    assert converted is model
    found = model.get_submodule("1.0")
    assert type(found) is kind
    assert found.weight is inner.weight
    assert found.running_var is inner.running_var
    assert list(model.state_dict()) == names
    assert type(convert_batch_norm(inner, mode)) is kind
