import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from dataio.loading import plan
from dataio.loading.augment import AugmentConfig
from dataio.loading.batch import Batch
from dataio.loading.batches import StepBatches
from dataio.loading.loader import walk
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.sources import StreamSource
from dataio.records import DataError
from dataio.shards.decode import decode_image, decode_views
from dataio.shards.manifest import Manifest
from dataio.shards.opening import load_manifest
from dataio.shards.reading import ShardReader, content_member
from tests.dataio.packed import open_loader, packed

AUGMENT = AugmentConfig(rotation_degrees=5, brightness=0.2)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("loader"))


@pytest.fixture(scope="module")
def sources(manifest) -> dict[str, StreamSource]:
    return {
        "source": StreamSource(
            manifest, manifest.select("image", "train"), manifest.classes, True, 24, None, AUGMENT
        ),
        "target": StreamSource(
            manifest, manifest.select("shape", "train"), manifest.classes, False, 24, 3, AUGMENT
        ),
    }


def load(sources, **options) -> list[tuple[int, dict[str, Batch]]]:
    with open_loader(sources, **{"batch": 8, "seed": 5, "steps": 6, **options}) as loader:
        return list(loader)


def assert_equal(first, second) -> None:
    assert [step for step, _ in first] == [step for step, _ in second]
    for (_, a), (_, b) in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            for field in dataclasses.fields(Batch):
                x, y = getattr(a[name], field.name), getattr(b[name], field.name)
                same = torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
                assert same, (name, field.name)


def test_batches_hold_what_the_plan_says(manifest, sources):
    reader = ShardReader(manifest.root, manifest.shards)
    for step, batches in load(sources):
        for name, source in sources.items():
            batch, rows = batches[name], source.rows
            order = plan.StreamOrder(
                manifest.shard_ids[rows], seed=5, stream_id=plan.stream_number(name)
            )
            positions = plan.batch_at(order, step, 8)
            expected = rows[positions[positions >= 0]]
            assert batch.row.tolist() == expected.tolist()
            assert batch.keys == [manifest.keys[r] for r in expected]
            assert (batch.offset, batch.count, len(batch)) == (0, len(expected), len(expected))
            for i, row in enumerate(expected):
                member = content_member(manifest, row)
                data = reader.read(int(manifest.shard_ids[row]), member)
                if name == "source":
                    pixels = decode_image(data, key="k", size=24).transpose(2, 0, 1)
                    assert np.array_equal(batch.pixels[i].numpy(), pixels)
                    assert batch.label[i] == manifest.class_ids[row]
                else:
                    assert batch.pixels[i].shape == (3, 1, 24, 24)


def test_drawn_views_are_the_shapes_own(manifest, sources):
    same_size = dataclasses.replace(sources["target"], image_size=32)
    reader = ShardReader(manifest.root, manifest.shards)
    step, batches = load({"target": same_size}, steps=1)[0]
    for pixels, row in zip(batches["target"].pixels.numpy(), batches["target"].row, strict=True):
        data = reader.read(int(manifest.shard_ids[row]), content_member(manifest, int(row)))
        views = decode_views(data, key="k", views=5).transpose(0, 3, 1, 2)
        found = [int(np.flatnonzero((views == p).all(axis=(1, 2, 3)))[0]) for p in pixels]
        assert len(set(found)) == 3
        assert found == sorted(found)
    assert step == 0


def test_every_sample_once_a_pass(sources):
    for name, source in sources.items():
        steps = plan.steps_per_pass(len(source.rows), 4)
        rows = torch.cat([b[name].row for _, b in load({name: source}, batch=4, steps=steps)])
        assert sorted(rows.tolist()) == source.rows.tolist()


@pytest.mark.parametrize("world_size", [2, 3, 11])
def test_ranks_share_each_global_batch(sources, world_size):
    whole = load(sources)
    parts = [load(sources, rank=r, world_size=world_size) for r in range(world_size)]
    for step, (_, batches) in enumerate(whole):
        for name, batch in batches.items():
            local = [part[step][1][name] for part in parts]
            assert torch.equal(torch.cat([b.row for b in local]), batch.row)
            assert torch.equal(torch.cat([b.label for b in local]), batch.label)
            for field in ("pixels", "jitter"):
                pieces = [getattr(b, field) for b in local if len(b)]
                assert torch.equal(torch.cat(pieces), getattr(batch, field))
            assert [b.offset for b in local] == np.cumsum([0] + [len(b) for b in local])[
                :-1
            ].tolist()
            assert {b.count for b in local} == {batch.count}
            assert [key for b in local for key in b.keys] == batch.keys
            for b in local:
                assert b.pixels.shape[-2:] == (24, 24)
                assert b.pixels.dim() == batch.pixels.dim()
                assert b.jitter is not None
                assert b.jitter.shape[0] == len(b)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_nothing(sources, workers):
    assert_equal(load(sources), load(sources, workers=workers, prefetch=1))


def test_resuming_continues_the_same_run(sources):
    whole = load(sources, steps=9)
    assert_equal(whole[4:], load(sources, steps=9, start_step=4))
    assert_equal(whole[4:], load(sources, steps=9, start_step=4, workers=2))
    assert load(sources, steps=9, start_step=9) == []


@pytest.mark.parametrize("cache_bytes", [1 << 30, 20_000, 0])
def test_the_cache_changes_nothing(sources, cache_bytes):
    plain = load(sources, steps=12)
    assert_equal(plain, load(sources, steps=12, cache="ram", cache_bytes=cache_bytes))


def test_the_cache_decodes_each_sample_once(sources, monkeypatch):
    decoded = []
    import dataio.loading.fetch as fetch

    for name in ("decode_image", "decode_views"):
        original = getattr(fetch, name)
        monkeypatch.setattr(
            fetch, name, lambda data, *, _f=original, **k: (decoded.append(1), _f(data, **k))[1]
        )
    loader = open_loader(sources, batch=8, seed=5, steps=12, cache="ram")
    list(loader)
    list(loader)
    assert len(decoded) == 22 + 10
    decoded.clear()
    list(open_loader(sources, batch=8, seed=5, steps=12))
    assert len(decoded) > 2 * (22 + 10)


def test_the_cache_keeps_to_its_limit(sources):
    limit = 40_000
    loader = open_loader(sources, batch=8, seed=5, steps=12, cache="ram", cache_bytes=limit)
    list(loader)
    held = 0
    for stream in loader._batches._streams.values():
        cache = stream.reader._cache
        assert cache is not None
        held += cache._pixels.nbytes
        assert 0 < cache.used_bytes <= cache._pixels.nbytes
    assert 0 < held <= limit


def test_hidden_labels_never_leave(manifest, sources):
    """Swapping all labels of a hidden stream changes nothing that a batch or a worker holds."""
    labels = manifest.labels.copy()
    rows = sources["target"].rows
    labels[rows] = "class0"
    ids = manifest.class_ids.copy()
    ids[rows] = 0
    blind = dataclasses.replace(manifest, labels=labels, class_ids=ids, fingerprint="")
    swapped = dict(sources, target=dataclasses.replace(sources["target"], manifest=blind))
    whole = load(sources)
    assert_equal(whole, load(swapped))
    for _, batches in whole:
        assert (batches["target"].label == -1).all()
        assert (batches["source"].label >= 0).all()
        known = {
            "pixels", "label", "row", "position", "views", "offset", "count", "keys", "jitter"
        }  # fmt: skip
        assert set(vars(batches["target"])) == known
    sent, blind_sent = (
        pickle.dumps(
            StepBatches(
                LoadingPlan({"target": source}, batch=8, seed=1, steps=6),
                rank=0,
                world_size=1,
                cache_bytes=0,
            )
        )
        for source in (sources["target"], swapped["target"])
    )
    assert sent == blind_sent
    assert b"class1" not in sent


def test_unlabelled_samples_need_no_labels(manifest, sources):
    labels = manifest.labels.copy()
    labels[:] = None
    bare = dataclasses.replace(manifest, labels=labels, fingerprint="")
    target = dataclasses.replace(sources["target"], manifest=bare, classes=())
    assert len(load({"target": target})) == 6
    with pytest.raises(DataError, match=r"'source' is labelled but sample .* has no label"):
        load({"source": dataclasses.replace(sources["source"], manifest=bare)})
    with pytest.raises(DataError, match=r"label 'class[12]', not among the classes"):
        load({"source": dataclasses.replace(sources["source"], classes=("class0",))})


def test_labels_follow_the_sources_own_classes(manifest, sources):
    turned = tuple(reversed(manifest.classes))
    source = dataclasses.replace(sources["source"], classes=turned)
    for _, batches in load({"source": source}):
        names = [turned[i] for i in batches["source"].label]
        assert names == manifest.labels[batches["source"].row.numpy()].tolist()


def test_streams_cycle_on_their_own_with_their_own_sizes(sources):
    for step, batches in load(sources, batch={"source": 4, "target": 6}, steps=13):
        assert batches["source"].count == (2 if step % 6 == 5 else 4)
        assert batches["target"].count == (4 if step % 2 == 1 else 6)


def test_passes_differ_in_order_views_and_jitter(sources):
    steps = plan.steps_per_pass(10, 10)
    batches = [b["target"] for _, b in load({"target": sources["target"]}, batch=10, steps=2)]
    assert steps == 1
    first, second = (
        {key: (b.pixels[i], b.jitter[i]) for i, key in enumerate(b.keys)}
        for b in batches
        if b.jitter is not None
    )
    assert first.keys() == second.keys()
    assert batches[0].keys != batches[1].keys
    assert all(not torch.equal(first[k][1], second[k][1]) for k in first)
    assert sum(not torch.equal(first[k][0], second[k][0]) for k in first) > 5


def test_without_augmentation_there_is_no_jitter(sources):
    plain = dataclasses.replace(sources["target"], augment=None, views=None)
    _, batches = load({"target": plain}, steps=1)[0]
    assert batches["target"].jitter is None
    assert batches["target"].pixels.shape == (8, 5, 1, 24, 24)


def test_batches_move(sources):
    _, batches = load(sources, steps=1)[0]
    moved = batches["target"].to("meta")
    assert moved.pixels.device.type == moved.label.device.type == "meta"
    assert moved.jitter is not None
    assert moved.keys == batches["target"].keys
    copy = pickle.loads(pickle.dumps(batches["target"]))
    assert_equal([(0, {"t": copy})], [(0, {"t": batches["target"]})])


def test_the_global_random_state_is_left_alone(sources):
    for workers in (0, 1):
        torch.manual_seed(3)
        expected = torch.rand(1)
        torch.manual_seed(3)
        load(sources, workers=workers)
        assert torch.equal(torch.rand(1), expected)


def test_what_workers_are_sent_is_small(manifest):
    """Bytes a sample, whatever the length of keys and labels."""
    many = 20_000
    repeat = np.resize(np.arange(22), many)
    large = dataclasses.replace(
        manifest,
        keys=[f"a-rather-long-key-{i:06d}" for i in range(many)],
        streams=np.full(many, "image"),
        splits=np.full(many, "train"),
        labels=manifest.labels[repeat],
        class_ids=manifest.class_ids[repeat],
        shard_ids=manifest.shard_ids[repeat],
        members=[manifest.members[i] for i in repeat],
        content_sha256=[manifest.content_sha256[i] for i in repeat],
        origins=[manifest.origins[i] for i in repeat],
        instances=[manifest.instances[i] for i in repeat],
        views=np.zeros(many, dtype=np.int64),
        fingerprint="x",
    )
    source = StreamSource(large, large.select("image", "train"), large.classes, True, 24)
    loader = open_loader({"source": source}, batch=8, seed=0, steps=1, cache="ram")
    list(loader)
    assert len(pickle.dumps(loader._batches)) < 60 * many


# ---- walking


@pytest.mark.parametrize(("world_size", "workers"), [(1, 0), (1, 2), (3, 0), (20, 0)])
def test_walk_meets_each_item_once_in_order(manifest, sources, world_size, workers):
    source = sources["target"]
    parts = [
        list(walk(source, batch=4, rank=r, world_size=world_size, workers=workers))
        for r in range(world_size)
    ]
    assert {len(part) for part in parts} == {3}
    rows = [row for step in zip(*parts, strict=True) for b in step for row in b.row.tolist()]
    assert rows == source.rows.tolist()
    for part in parts:
        for batch in part:
            assert batch.jitter is None
            assert batch.pixels.shape[0] == len(batch) == len(batch.keys)
            assert batch.pixels.shape[1] == 5
            assert batch.label.tolist() == manifest.class_ids[batch.row.numpy()].tolist()


def test_walk_gives_no_number_to_foreign_labels(manifest, sources):
    narrow = dataclasses.replace(sources["source"], classes=("class1",))
    labels = torch.cat([b.label for b in walk(narrow, batch=5)])
    names = manifest.labels[narrow.rows]
    assert labels.tolist() == [0 if name == "class1" else -1 for name in names]


def test_shapes_with_fewer_views_repeat_them(tmp_path, manifest):
    from dataio.packing.records_to_shards import pack
    from tests.dataio.packed import records

    def uneven():
        for record in records(tmp_path / "raw", images=0, shapes=4):
            if record.key == "shape-001":
                assert record.views is not None
                record = dataclasses.replace(record, views=record.views[:2])
            yield record

    small = pack(uneven(), tmp_path / "set", dataset="d")
    source = StreamSource(small, small.select("shape", "train"), small.classes, True, 32)
    batch = next(iter(walk(source, batch=8)))
    pixels = batch.pixels[batch.keys.index("shape-001")]
    assert torch.equal(pixels, pixels[[0, 1, 0, 1, 0]])
    assert not torch.equal(pixels[0], pixels[1])


# ---- failures


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_names_sample_and_remedy(tmp_path, workers):
    manifest = packed(tmp_path)
    loaded = load_manifest(manifest.root)
    row = int(loaded.select("image", "train")[3])
    path = Path(loaded.root) / loaded.shards[loaded.shard_ids[row]].name
    data = bytearray(path.read_bytes())
    member = content_member(loaded, row)
    data[member.offset : member.offset + member.size] = bytes(member.size)
    path.write_bytes(data)
    source = StreamSource(loaded, loaded.select("image", "train"), loaded.classes, True, 24)
    with pytest.raises(DataError, match=rf"'{loaded.keys[row]}': .*{path.name}") as caught:
        load({"source": source}, workers=workers)
    assert "\n" not in str(caught.value)
    path.write_bytes(data[: member.offset])
    with pytest.raises(DataError, match=rf"{path.name}.*pack again"):
        load({"source": source}, workers=workers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch"),
        ({"batch": {"source": 4}}, "batch"),
        ({"rank": 2, "world_size": 2}, "rank"),
        ({"start_step": 7}, "start_step"),
        ({"workers": -1}, "workers"),
        ({"prefetch": 0}, "prefetch"),
        ({"cache": "disk"}, "cache"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_named(sources, options, message):
    with pytest.raises(DataError, match=message):
        load(sources, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": np.array([], dtype=np.int64)}, "no rows"),
        ({"rows": np.array([0, 0])}, "twice"),
        ({"rows": np.array([999])}, "outside"),
        ({"image_size": 0}, "image_size"),
        ({"views": 0}, "views"),
        ({"fit": "squash"}, "fit"),
        ({"rows": np.arange(35), "labelled": False}, "mixes"),
    ],
)
def test_bad_sources_are_named(sources, change, message):
    with pytest.raises(DataError, match=message):
        load({"source": dataclasses.replace(sources["source"], **change)})
    with pytest.raises(DataError, match="empty"):
        load({})
