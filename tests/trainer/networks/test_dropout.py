"""Dropout masks follow the global row: any split of a batch drops the same units."""

from __future__ import annotations

import torch

from trainer.networks.dropout import GlobalDropout, dropout_rows, row_positions


def masks(layer: GlobalDropout, rows: torch.Tensor, step: int) -> torch.Tensor:
    with dropout_rows(seed=3, step=step), row_positions(rows):
        return layer(torch.ones(len(rows), 4, 50)) > 0


def test_a_split_batch_has_the_masks_of_the_whole():
    layer, rows = GlobalDropout(0.5, layer=1), torch.arange(12)
    whole = masks(layer, rows, 7)
    parts = torch.cat(
        [masks(layer, rows[:5], 7), masks(layer, rows[5:5], 7), masks(layer, rows[5:], 7)]
    )
    assert torch.equal(whole, parts)


def test_masks_differ_by_step_layer_row_and_seed_and_have_the_right_rate():
    rows = torch.arange(200)
    a = masks(GlobalDropout(0.3, layer=1), rows, 0)
    b = masks(GlobalDropout(0.3, layer=1), rows, 1)
    c = masks(GlobalDropout(0.3, layer=2), rows, 0)
    for other in (b, c, a.roll(1, 0), a.roll(1, 2)):
        # Independent Bernoulli(0.7) masks agree with probability 0.7² + 0.3² = 0.58.
        assert abs((a == other).float().mean().item() - 0.58) < 0.01
    assert abs(a.float().mean().item() - 0.7) < 0.01
    assert abs(a.float().mean(0) - 0.7).max() < 0.15


def test_kept_units_are_scaled_and_evaluation_is_the_identity():
    layer, x = GlobalDropout(0.5, layer=0), torch.ones(8, 16)
    assert set(layer(x).unique().tolist()) == {0.0, 2.0}
    assert torch.equal(layer.eval()(x), x)


def test_zero_rows_and_gradient():
    layer = GlobalDropout(0.5, layer=0)
    x = torch.ones(0, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (0, 16)
