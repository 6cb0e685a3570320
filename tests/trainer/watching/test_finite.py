"""Steps that are not finite: who notices, what is said, and what is left untouched."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.spawn import run_processes
from tests.trainer.test_loop import small
from trainer.building import build_method
from trainer.config import parse_config
from trainer.engines.data_parallel import DataParallel
from trainer.inputs.open_data import OpenData
from trainer.loop import Trainer
from trainer.methods import Domain, Now
from trainer.runs.checkpoint import newest_checkpoint
from trainer.runs.run_folder import RunFolder
from trainer.watching.finite import FiniteCheck, NonFiniteError
from trainer.watching.observer import Origin

STEP = 3


class Poison(torch.autograd.Function):
    """The identity, whose gradient is NaN."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, *grads: Tensor) -> Tensor:
        return grads[0] * torch.nan


def poison(trainer: Trainer, *, rank: int, once: bool) -> None:
    """From ``STEP`` on (or then only once) a NaN in the gradient of this rank's domain loss."""
    if trainer.rank != rank:
        return
    heads, done = trainer.method.network, []
    discriminate = heads.discriminate

    def poisoned(source, target, offsets):
        d_s, d_t = discriminate(source, target, offsets)
        if trainer.step != STEP or (once and done):
            return d_s, d_t
        done.append(True)
        return Poison.apply(d_s), d_t

    heads.discriminate = poisoned


def one_rank_breaks(rank: int, world_size: int, root: Path, out: Path, how: str):
    """Error text, keys of this rank at the step, whether weights moved, and the checkpoints."""
    config, folder = small(root, batch=6, checkpoint_every=2), RunFolder(out)
    if rank == 0:
        folder.claim(config, fingerprint=OpenData(config).fingerprint)
    torch.distributed.barrier() if world_size > 1 else None
    trainer = Trainer(config, folder, device=torch.device("cpu"))
    trainer.rank = rank
    poison(trainer, rank=world_size - 1, once=how == "once")
    seen: dict[str, list] = {"keys": [], "weights": []}

    def look(_module, inputs, _losses):
        batch, now, _ = inputs
        if now.step == STEP and not seen["keys"]:
            seen["keys"] = [k for domain in batch.values() for k in domain.keys]
            seen["weights"] = [p.detach().clone() for p in trainer.method.parameters()]

    trainer.method.register_forward_hook(look)
    with pytest.raises(NonFiniteError) as error:
        trainer.run()
    unmoved = all(map(torch.equal, seen["weights"], trainer.method.parameters()))
    found = newest_checkpoint(folder.checkpoints) if rank == 0 else None
    return str(error.value), seen["keys"], unmoved, found and found.step


@pytest.mark.parametrize("how", ["always", "once"])
def test_a_gradient_broken_on_one_rank_stops_all_and_names_it(benchmark, tmp_path, how):
    answers = run_processes(one_rank_breaks, 2, benchmark, tmp_path / "run", how)
    (text, other_keys, *_), (same, keys, *_) = answers
    assert text == same
    assert text.startswith(f"step {STEP}: gradient norm is nan, ")
    named = text.split("samples: ")[1].split("; ")[0].split(" and ")[0].split(", ")
    if how == "always":
        assert ", from the gradient of domain on rank 1; samples: " in text
        assert set(named) <= set(keys)
        assert not set(named) & set(other_keys)
    else:  # what cannot be found again is not made up
        assert "finite when computed again; samples: " in text
        assert set(named) <= {*keys, *other_keys}
    assert all(unmoved for _, _, unmoved, _ in answers)
    assert answers[0][3] == 2  # the one before


def test_one_process_names_term_and_samples(benchmark, tmp_path):
    text, keys, unmoved, step = one_rank_breaks(0, 1, benchmark, tmp_path / "run", "always")
    assert f"step {STEP}: gradient norm is nan, from the gradient of domain on rank 0" in text
    assert all(key in keys for key in text.split("samples: ")[1].split(" and ")[0].split(", "))
    assert unmoved
    assert step == 2


def test_a_sample_that_is_not_finite_is_named_alone(benchmark, tmp_path):
    trainer = Trainer(small(benchmark), RunFolder(tmp_path), device=torch.device("cpu"))
    pixels = torch.randn(3, 3, 64, 64)
    pixels[1, 0, 5, 5] = torch.nan
    batch = {"source_images": Domain(pixels, torch.tensor([0, 1, 2]), keys=("a", "b", "c"))}
    origin = Origin(Now(7, 0.5), trainer.method.updates(7)[0], lambda: batch)
    with pytest.raises(
        NonFiniteError, match=r"^step 7: classification is nan; samples: b; lower optimizer"
    ):
        trainer.observers.finite.losses_known({"classification": torch.tensor(torch.nan)}, origin)


def delayed(kind: str = "sgd", **options):
    """Method, strategy with a fused optimiser, and a check that looks one update later."""
    config = parse_config(
        {
            "method": {"name": "source-only"},
            "network": {"tiny_width": 8, "embedding": 4, "image_size": 32},
            "optimizer": {"kind": kind, **options},
        }
    )
    method, strategy = build_method(config, num_classes=3), DataParallel()
    strategy.prepare(method, config.optimizer)
    fused = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[kind]
    groups = [{**group, "fused": True} for group in strategy.optimizer.param_groups]
    strategy.optimizer = fused(groups, fused=True)  # as on a GPU
    return method, strategy, FiniteCheck(method, learning=strategy.only, delayed=True)


def update(method: nn.Module, strategy: DataParallel, check: FiniteCheck, *, step: int, bad=None):
    """One update as the loop makes it."""
    g = torch.Generator().manual_seed(step)
    keys = tuple(f"{step}-{i}" for i in range(4))
    labels = torch.tensor([0, 1, 2, 1])
    batch = {"source_images": Domain(torch.randn(4, 3, 32, 32, generator=g), labels, 0, keys)}
    now, (this,) = Now(step, 0.1), method.updates(step)
    with strategy.only(this):
        losses = method(batch, now, this.name)
        total = losses.total
        if bad == "term":
            losses.terms["classification"] = total = total * torch.nan
        check.losses_known(losses.terms, Origin(now, this, lambda: batch))
        strategy.backward(Poison.apply(total) if bad == "gradient" else total)
    check.settle()
    norm = strategy.step(factor=1.0)
    assert norm is not None
    check.updated(norm)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("bad", ["term", "gradient"])
def test_a_delayed_look_finds_the_state_unchanged(kind, bad):
    method, strategy, check = delayed(kind, clip_norm=1.0)
    for step in range(2):
        update(method, strategy, check, step=step)
    before = [p.detach().clone() for p in method.parameters()]
    moments = {n: {k: v.clone() for k, v in s.items()} for n, s in optimizer_state(strategy)}
    update(method, strategy, check, step=2, bad=bad)  # nothing raises yet
    what = "classification is nan" if bad == "term" else "gradient norm is nan, though"
    with pytest.raises(NonFiniteError, match=rf"^step 2: {what}.*samples: 2-0, 2-1"):
        update(method, strategy, check, step=3)
    assert all(map(torch.equal, before, method.parameters()))
    for name, entries in optimizer_state(strategy):
        for key, value in entries.items():
            assert torch.equal(value, moments[name][key]), (name, key)


def optimizer_state(strategy: DataParallel):
    return strategy.state_dict()["optimizer"].items()


def test_settling_checks_what_is_pending():
    method, strategy, check = delayed()
    update(method, strategy, check, step=0)
    check.settle()
    update(method, strategy, check, step=1, bad="gradient")
    with pytest.raises(NonFiniteError, match=r"^step 1: gradient norm"):
        check.settle()
    check.settle()  # it is said once


def test_a_delayed_run_saves_nothing_that_is_not_finite(benchmark, tmp_path):
    """NaN in the step right before a checkpoint: a look at the next step would be too late."""
    config, folder = small(benchmark, checkpoint_every=2, log_every=50), RunFolder(tmp_path / "run")
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    trainer = Trainer(config, folder, device=torch.device("cpu"))
    trainer.rank = 0
    trainer.observers.finite._delayed = True  # as on a GPU
    poison(trainer, rank=0, once=False)
    with pytest.raises(NonFiniteError, match=f"step {STEP}: "):
        trainer.run()
    found = newest_checkpoint(folder.checkpoints)
    assert found is not None
    assert found.step == 2


def test_accumulated_batches_are_searched_in_turn():
    config = parse_config(
        {
            "method": {"name": "source-only"},
            "network": {"tiny_width": 8, "embedding": 4, "image_size": 32},
            "optimizer": {"accumulate": 2},
            "training": {"steps": 10, "checkpoint_every": 2},
        }
    )
    method, strategy = build_method(config, num_classes=3), DataParallel()
    strategy.prepare(method, config.optimizer)
    check = FiniteCheck(method, learning=strategy.only)
    (this,) = method.updates(0)
    classify = method.network.classify
    for step in (4, 5):
        keys = tuple(f"{step}-{i}" for i in range(3))
        pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        batch = {"source_images": Domain(pixels, torch.tensor([0, 1, 2]), 0, keys)}
        bad = step == 4
        method.network.classify = (lambda f: Poison.apply(classify(f))) if bad else classify
        with strategy.only(this):
            losses = method(batch, Now(step, 0.1), this.name)
            check.losses_known(
                losses.terms, Origin(Now(step, 0.1), this, lambda batch=batch: batch)
            )
            strategy.backward(losses.total)
        norm = strategy.step(factor=1.0)
        assert (norm is None) == (step == 4)

    heads = iter([lambda f: Poison.apply(classify(f)), classify])  # the two batches once more
    method.network.classify = lambda f: next(heads)(f)
    assert norm is not None
    with pytest.raises(NonFiniteError, match=r"^step 4: gradient norm is nan, from.*: 4-0, 4-1"):
        check.updated(norm)
