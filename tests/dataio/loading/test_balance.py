"""The loader's class-balanced batches: same classes in all streams, any rank, worker or resume."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dataio.loading.augment import AugmentConfig
from dataio.loading.batch import Batch
from dataio.loading.class_balance import Balance
from dataio.loading.loader import walk
from dataio.loading.sources import StreamSource
from dataio.records import DataError
from dataio.shards.manifest import Manifest
from tests.dataio.packed import open_loader, packed

AUGMENT = AugmentConfig(rotation_degrees=5, brightness=0.2)
P, K = 2, 4  # a class has 7 or 8 photos, and 3 or 4 shapes for training


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("balance"))


@pytest.fixture(scope="module")
def sources(manifest) -> dict[str, StreamSource]:
    return {
        name: StreamSource(
            manifest, manifest.select(stream, "train"), manifest.classes, True, 24, views, AUGMENT
        )
        for name, stream, views in (("photos", "image", None), ("shapes", "shape", 3))
    }


def load(sources, **options) -> list[dict[str, Batch]]:
    chosen = {"balance": Balance(P, K), "seed": 5, "steps": 6, **options}
    with open_loader(sources, **chosen) as loader:
        return [batches for _, batches in loader]


def assert_equal(first: list[dict[str, Batch]], second: list[dict[str, Batch]]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for name in a:
            for field in dataclasses.fields(Batch):
                x, y = getattr(a[name], field.name), getattr(b[name], field.name)
                same = torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
                assert same, (name, field.name)


def test_every_step_has_p_classes_with_k_samples_the_same_in_all_streams(manifest, sources):
    for batches in load(sources, steps=20):
        labels = {name: batch.label.reshape(P, K) for name, batch in batches.items()}
        assert torch.equal(labels["photos"], labels["shapes"])
        assert (labels["photos"] == labels["photos"][:, :1]).all()
        assert labels["photos"][0, 0] != labels["photos"][1, 0]
        for name, batch in batches.items():
            assert (batch.offset, batch.count, len(batch)) == (0, P * K, P * K)
            assert batch.row.tolist() == sources[name].rows[batch.position].tolist()
            assert batch.label.tolist() == manifest.class_ids[batch.row].tolist()


def test_a_repeated_sample_looks_different_each_time(sources):
    batches = [batch["shapes"] for batch in load(sources, balance=Balance(3, 8), steps=5)]
    seen = []
    for batch in batches:
        assert batch.jitter is not None
        looks = [one.numpy().tobytes() for one in batch.jitter]
        seen += zip(batch.row.tolist(), looks, strict=True)
    assert len(seen) == 5 * 24
    assert len(set(seen)) == len(seen)


def test_ranks_share_each_balanced_batch(sources):
    whole = load(sources)
    parts = [load(sources, rank=r, world_size=3) for r in range(3)]
    for step, batches in enumerate(whole):
        for name, batch in batches.items():
            local = [part[step][name] for part in parts]
            assert [b.offset for b in local] == [0, 2, 5]
            assert {b.count for b in local} == {P * K}
            for field in ("pixels", "label", "row", "position", "jitter"):
                together = torch.cat([getattr(b, field) for b in local])
                assert torch.equal(together, getattr(batch, field)), field


def test_workers_and_resuming_change_nothing(sources):
    whole = load(sources)
    assert_equal(whole, load(sources, workers=2))
    assert_equal(whole[4:], load(sources, start_step=4))


@pytest.mark.parametrize("cache_bytes", [1 << 30, 20_000])
def test_the_cache_changes_nothing_and_holds_a_repeated_sample_once(sources, cache_bytes):
    options = {"balance": Balance(3, 16), "steps": 3}
    plain = load(sources, **options)
    assert len(set(plain[0]["shapes"].row.tolist())) < 48
    assert_equal(plain, load(sources, **options, cache="ram", cache_bytes=cache_bytes))


def test_an_unlabelled_stream_is_refused_by_name(sources):
    hidden = dict(sources, shapes=dataclasses.replace(sources["shapes"], labelled=False))
    with pytest.raises(DataError, match=r"stream 'shapes' is unlabelled; .*labelled=True.*batch"):
        load(hidden)


def test_streams_with_other_class_numbers_are_refused(manifest, sources):
    turned = dataclasses.replace(sources["shapes"], classes=tuple(reversed(manifest.classes)))
    with pytest.raises(DataError, match="'shapes' numbers its classes unlike"):
        load(dict(sources, shapes=turned))


def test_too_few_common_classes_are_counted(manifest, sources):
    rows = sources["shapes"].rows
    one = dataclasses.replace(sources["shapes"], rows=rows[manifest.class_ids[rows] == 1])
    assert load(dict(sources, shapes=one), balance=Balance(1, 2), steps=1)
    with pytest.raises(DataError, match=r"2 classes .*photos, shapes have 1 labelled"):
        load(dict(sources, shapes=one))


@pytest.mark.parametrize("options", [{"batch": 8}, {"balance": None}])
def test_exactly_one_of_batch_and_balance_is_named(sources, options):
    with pytest.raises(DataError, match=r"either batch .* or balance"):
        load(sources, **options)


def test_positions_are_places_among_the_sources_rows(sources):
    for batches in load(sources, balance=None, batch=8):
        for name, batch in batches.items():
            assert batch.row.tolist() == sources[name].rows[batch.position].tolist()
    for source in sources.values():
        places = torch.cat([batch.position for batch in walk(source, batch=4)])
        assert places.tolist() == list(range(len(source.rows)))
    moved = load(sources, steps=1)[0]["photos"].to("meta")
    assert moved.position.device.type == "meta"
    assert places.dtype == torch.int64
