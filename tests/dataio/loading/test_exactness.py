"""The promises of the loader: what a step holds depends on (data, seed, step) and nothing else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataio.loading import plan
from dataio.loading.augment import AugmentConfig
from dataio.loading.batch import Batch
from dataio.loading.batches import StepBatches
from dataio.loading.class_balance import Balance
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.sources import StreamSource
from dataio.shards.manifest import Manifest, Member, Shard
from tests.dataio.packed import open_loader, packed

WORLDS = (1, 2, 3, 4)
many = settings(max_examples=150, deadline=None, derandomize=True, database=None)
few = settings(max_examples=60, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**64 - 1)


def index(samples: int, shards: int, *, stream: str = "image", classes: int = 1) -> Manifest:
    """A data set without files: an index is all that planning needs."""
    names = tuple(f"class{i:02d}" for i in range(classes))
    ids = np.arange(samples) * 11 % classes
    labels = np.empty(samples, dtype=object)
    labels[:] = [names[i] for i in ids]
    return Manifest(
        root="nowhere",
        keys=[f"{stream}-{i:03d}" for i in range(samples)],
        streams=np.full(samples, stream),
        splits=np.full(samples, "train"),
        labels=labels,
        class_ids=ids,
        shard_ids=np.arange(samples) * shards // samples,
        members=[(Member("views.jpg" if stream == "shape" else "jpg", 512, 1),)] * samples,
        content_sha256=["00" * 32] * samples,
        views=np.full(samples, 5 if stream == "shape" else 0),
        shards=tuple(Shard(f"{i}.tar", "", 0, 0) for i in range(shards)),
        classes=names,
    )


def source(manifest: Manifest, **options: Any) -> StreamSource:
    rows = np.arange(len(manifest))[::-1].copy()  # positions are not rows
    augment = AugmentConfig(brightness=0.2)
    return StreamSource(manifest, rows, manifest.classes, True, 8, augment=augment, **options)


@st.composite
def runs(draw: st.DrawFn) -> tuple[dict[str, StreamSource], dict[str, Any], int]:
    """Two streams of any sizes, the options of their batches, and a number of steps."""
    sources = {
        stream: source(
            index(
                samples := draw(st.integers(1, 40)), draw(st.integers(1, samples)), stream=stream
            ),
            views=draw(st.sampled_from([None, 1, 3])) if stream == "shape" else None,
        )
        for stream in ("image", "shape")
    }
    options = {
        "batch": {name: draw(st.integers(1, 12)) for name in sources},
        "seed": draw(seeds),
        "block_shards": draw(st.integers(1, 5)),
    }
    return sources, options, draw(st.integers(1, 8))


def planned(sources: dict[str, StreamSource], *, rank: int, world: int, **options: Any):
    """The steps of one rank without their pixels."""
    loading = LoadingPlan(sources, steps=1, **options)
    return StepBatches(loading, rank=rank, world_size=world, cache_bytes=0, pixels=False)


def joined(parts: list[Batch]) -> dict[str, Any]:
    """The global batch of the ranks' parts, after checking that they follow one another."""
    assert [p.offset for p in parts] == np.cumsum([0, *map(len, parts)])[:-1].tolist()
    assert {p.count for p in parts} == {sum(map(len, parts))}
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    kept = [p for p in parts if len(p)]
    tensors = ("label", "row", "position", "views", "jitter", "pixels")
    whole: dict[str, Any] = {name: torch.cat([getattr(p, name) for p in kept]) for name in tensors}
    return {**whole, "keys": [key for p in parts for key in p.keys]}


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    for name, value in first.items():
        other = second[name]
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        assert same, name


def global_batches(sources, steps: range, *, world: int, **options: Any) -> list[dict[str, dict]]:
    ranks = [planned(sources, rank=r, world=world, **options) for r in range(world)]
    found = []
    for step in steps:
        parts = [rank[step] for rank in ranks]
        found.append({name: joined([part[name] for part in parts]) for name in sources})
    return found


@few
@given(runs(), st.sampled_from(WORLDS))
def test_every_world_size_has_the_same_global_batches(run, world):
    sources, options, steps = run
    alone = planned(sources, rank=0, world=1, **options)
    loading = LoadingPlan(sources, steps=steps, **options)
    for step, batches in enumerate(global_batches(sources, range(steps), world=world, **options)):
        expected, places = alone[step], loading.places(step, world_size=world)
        for name, batch in batches.items():
            assert_same(joined([expected[name]]), batch)
            assert batch["position"].tolist() == places[name].positions.tolist()
            assert batch["row"].tolist() == places[name].rows.tolist()
            assert batch["views"].tolist() == places[name].views.tolist()
            assert places[name].bounds == tuple(
                plan.rank_bounds(len(batch["row"]), rank, world) for rank in range(world)
            )


@many
@given(runs(), st.integers(0, 3))
def test_each_sample_once_a_pass_and_short_batches_only_at_its_end(run, number):
    sources, options, _ = run
    loading = LoadingPlan(sources, steps=1, **options)
    for name in sources:
        samples, size = len(sources[name].rows), options["batch"][name]
        length = plan.steps_per_pass(samples, size)
        met = [loading.places(number * length + i)[name] for i in range(length)]
        assert sorted(p for places in met for p in places.positions.tolist()) == [*range(samples)]
        assert all((places.passes == number).all() for places in met)
        assert [len(places.positions) for places in met[:-1]] == [size] * (length - 1)
        assert len(met[-1].positions) == samples - size * (length - 1)
        for places in met:
            assert places.rows.tolist() == sources[name].rows[places.positions].tolist()


@many
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20), seeds, st.integers(1, 5))
def test_padding_stands_only_at_the_end_of_a_pass(samples, shards, size, seed, block):
    order = plan.StreamOrder(
        np.arange(samples) * shards // samples, seed=seed, stream_id=1, block_shards=block
    )
    length = plan.steps_per_pass(samples, size)
    for step in range(2 * length):
        padding = plan.batch_at(order, step, size) == plan.PADDING
        expected = length * size - samples if step % length == length - 1 else 0
        assert padding.sum() == expected
        assert not padding[: size - expected].any()


@few
@given(runs(), st.integers(0, 10**6), st.sampled_from(WORLDS), st.sampled_from(WORLDS))
def test_any_step_can_be_resumed_at_with_another_world_size(run, start, before, after):
    sources, options, steps = run
    through = global_batches(sources, range(start, start + 2 * steps), world=before, **options)
    resumed = range(start + steps, start + 2 * steps)
    for first, second in zip(
        through[steps:], global_batches(sources, resumed, world=after, **options), strict=True
    ):
        for name in sources:
            assert_same(first[name], second[name])


@few
@given(st.data(), seeds, st.integers(1, 5), st.integers(1, 6))
def test_balanced_batches_have_p_classes_with_k_samples_each(data, seed, classes, samples):
    held = data.draw(st.integers(classes, 8))
    sources = {
        stream: source(index(data.draw(st.integers(held, 40)), 3, stream=stream, classes=held))
        for stream in ("image", "shape")
    }
    options = {"balance": Balance(classes, samples), "seed": seed, "block_shards": 1}
    step = data.draw(st.integers(0, 10**9))
    steps, world = range(step, step + 2), data.draw(st.sampled_from(WORLDS))
    whole = global_batches(sources, steps, world=1, **options)
    for first, second in zip(
        whole, global_batches(sources, steps, world=world, **options), strict=True
    ):
        for name in sources:
            assert_same(first[name], second[name])
    for batch in whole:
        drawn = batch["image"]["label"].tolist()
        assert drawn == batch["shape"]["label"].tolist()
        assert drawn[::samples] == list(dict.fromkeys(drawn))  # class after class, all distinct
        assert set(Counter(drawn).values()) == {samples}
        for stream, members in sources.items():
            sizes = Counter(members.manifest.class_ids.tolist())
            uses = Counter(batch[stream]["position"].tolist())
            labels = dict(zip(batch[stream]["position"].tolist(), drawn, strict=True))
            for position, count in uses.items():
                size = sizes[labels[position]]
                assert count in (samples // size, -(-samples // size))


# ---- with pixels and worker processes


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, StreamSource]:
    manifest = packed(tmp_path_factory.mktemp("exactness"))
    return {
        stream: StreamSource(
            manifest, manifest.select(stream, "train"), manifest.classes, True, 24,
            3 if stream == "shape" else None, AugmentConfig(rotation_degrees=5),
        )
        for stream in ("image", "shape")
    }  # fmt: skip


def loaded(sources, *, world: int, workers: int, start: int = 0, steps: int = 7):
    """The global batches that the ranks' loaders give together."""
    options = {"batch": 6, "seed": 3, "steps": steps, "start_step": start, "world_size": world}
    parts = [list(open_loader(sources, rank=r, workers=workers, **options)) for r in range(world)]
    return [
        {name: joined([batches[name] for _, batches in step]) for name in sources}
        for step in zip(*parts, strict=True)
    ]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world", WORLDS)
def test_ranks_and_workers_change_no_pixel(sources, world, workers):
    whole = loaded(sources, world=1, workers=0)
    before = loaded(sources, world=world, workers=workers, steps=3)
    after = loaded(sources, world=WORLDS[-world], workers=workers, start=3)
    for expected, found in zip(whole, before + after, strict=True):
        for name in sources:
            assert_same(expected[name], found[name])
