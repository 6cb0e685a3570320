"""Worker batches in recycled memory: used again when nobody looks at it, and never before."""

from __future__ import annotations

import gc

import pytest
import torch

from dataio.loading import recycled_batches as recycled
from dataio.loading.loader import Loader
from dataio.loading.sources import StreamSource
from tests.dataio.packed import open_loader, packed


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> StreamSource:
    manifest = packed(tmp_path_factory.mktemp("recycled"))
    rows = manifest.select("shape", "train")
    return StreamSource(manifest, rows, manifest.classes, labelled=True, image_size=32)


def loader(source: StreamSource, *, workers: int, steps: int = 40) -> Loader:
    return open_loader({"s": source}, batch=5, seed=1, steps=steps, workers=workers)


def test_memory_is_used_again_once_a_batch_is_gone(source):
    addresses, received = set(), 0
    with loader(source, workers=1) as batches:
        for _, batch in batches:
            addresses.add(batch["s"].pixels.data_ptr())
            received = max(received, len(recycled._received))
    assert received < 10
    assert len(addresses) <= received


def test_batches_that_are_kept_stay_what_they_were(source):
    """More than a worker has blocks for: the rest comes in memory of its own."""
    with loader(source, workers=0) as batches:
        expected = [batch["s"].pixels.clone() for _, batch in batches]
    with loader(source, workers=1) as batches:
        kept = [batch["s"].pixels for _, batch in batches]
    assert len(kept) > recycled._BLOCKS
    for mine, theirs in zip(kept, expected, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "part", [lambda p: p[1:3, 0], lambda p: p.numpy()[2], lambda p: p.flatten()]
)
def test_a_part_of_a_batch_keeps_all_of_it(part, source):
    held, copies = [], []
    with loader(source, workers=2) as batches:
        for step, (_, batch) in enumerate(batches):
            if step % 7 == 0:
                held.append(part(batch["s"].pixels))
                copies.append(held[-1].copy() if hasattr(held[-1], "copy") else held[-1].clone())
            del batch
            gc.collect()
    for mine, copy in zip(held, copies, strict=True):
        assert torch.equal(torch.as_tensor(mine), torch.as_tensor(copy))


def test_nothing_is_held_when_the_iteration_has_ended(source):
    with loader(source, workers=2, steps=12) as batches:
        first = next(iter(batches))[1]["s"].pixels
        before = first.clone()
    assert recycled._received == {}
    assert torch.equal(first, before)


def test_two_iterations_at_once_do_not_meet(source):
    with loader(source, workers=1) as one, loader(source, workers=1) as other:
        for (_, a), (_, b) in zip(one, other, strict=True):
            assert a["s"].pixels.data_ptr() != b["s"].pixels.data_ptr()
            assert torch.equal(a["s"].pixels, b["s"].pixels)
