"""Shards on a torch device answer with the bits of those in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from evalsuite import EvaluationError, InProcess, evaluate, partition, split_gallery
from evalsuite.scoring import device_gallery as device_module
from evalsuite.scoring.device_gallery import DeviceShard
from tests.evalsuite.scoring.test_sharding import fingerprint, problem

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    ),
]


def shards(gallery, count, *, device, **options):
    labels = np.array(gallery.labels)
    return [
        DeviceShard(gallery.vectors[rows], labels[rows].tolist(), rows, device=device, **options)
        for rows in partition(gallery.labels, count)
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("features", ["raw", "clamp-l2"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("width", "items"), [(1, 9), (3, 61), (128, 900)])
def test_the_same_bits_as_in_numpy(monkeypatch, device, features, metric, width, items):
    monkeypatch.setattr(device_module, "QUERIES_AT_ONCE", 16)
    monkeypatch.setattr(device_module, "ITEMS_AT_ONCE", 100)
    queries, gallery = problem(width=width, items=items)
    gallery.vectors[::9] = np.nan
    queries.vectors[5, 0], gallery.vectors[3, 0] = np.nan, np.inf
    chosen = {"metric": metric, "features": features}
    wanted = evaluate(queries, gallery, nan_policy="last", **chosen)
    assert wanted.ties.pairs > 0
    held = shards(gallery, 3, device=device, **chosen)
    found = evaluate(queries, None, nan_policy="last", transport=InProcess(held), **chosen)
    assert fingerprint(found) == fingerprint(wanted)


def test_both_kinds_of_shard_serve_one_evaluation():
    queries, gallery = problem(width=16, items=300)
    wanted = evaluate(queries, gallery)
    mixed = [shards(gallery, 2, device="cpu")[0], split_gallery(gallery, 2)[1]]
    assert fingerprint(evaluate(queries, None, transport=InProcess(mixed))) == fingerprint(wanted)


def test_float32_tiles_are_refused():
    with pytest.raises(EvaluationError, match="use 'exact'"):
        DeviceShard(np.ones((2, 3)), ["a", "b"], np.arange(2), device="cpu", arithmetic="float32")
