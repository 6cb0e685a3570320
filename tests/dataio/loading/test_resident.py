"""Pictures held in memory or on the device: the same batches as without, whatever their kinds."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dataio.loading import resident
from dataio.loading.augment import AugmentConfig
from dataio.loading.batches import StepBatches
from dataio.loading.class_balance import Balance
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.sources import StreamSource
from dataio.packing.records_to_shards import pack
from dataio.records import DataError, Record
from tests.dataio.loading.test_loader import assert_equal
from tests.dataio.packed import open_loader, packed, picture, records

AUGMENT = AugmentConfig(rotation_degrees=5)


def mixed(raw: Path):
    """Sketches in grey and in colour, of several sizes, and shapes of 5 and of 2 views."""
    for i in range(14):
        path = raw / f"sketch{i}.png"
        raw.mkdir(parents=True, exist_ok=True)
        channels = 3 if i % 5 == 2 else 1
        pixels = Image.fromarray(picture(i, 24 + i, channels=channels))
        (pixels if channels == 3 else pixels.convert("L")).save(path)
        yield Record(f"sketch-{i:02d}", "sketch", "train", f"class{i % 3}", image=path)
    for record in records(raw, images=9, shapes=6):
        if record.key == "shape-001":
            assert record.views is not None
            record = dataclasses.replace(record, views=record.views[:2])
        yield record


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, StreamSource]:
    folder = tmp_path_factory.mktemp("resident")
    manifest = pack(mixed(folder / "raw"), folder / "set", dataset="d", shard_size_bytes=12_000)

    def source(stream: str, views: int | None = None) -> StreamSource:
        rows = manifest.select(stream, "train")
        return StreamSource(manifest, rows, manifest.classes, True, 24, views, AUGMENT)

    return {
        "photos": source("image"),
        "sketches": source("sketch"),
        "shapes": source("shape"),
        "two views": source("shape", 2),
    }


def load(sources, **options):
    with open_loader(sources, **{"batch": 3, "seed": 5, "steps": 10, **options}) as loader:
        return list(loader)


@pytest.mark.parametrize(
    ("cache", "workers"), [("ram", 0), ("ram", 2), ("device", 0), ("device", 2)]
)
def test_every_cache_gives_the_same_batches(sources, cache, workers):
    plain = load(sources)
    assert {b["sketches"].pixels.shape[1] for _, b in plain} == {1, 3}  # both kinds of batch
    assert plain[0][1]["shapes"].views.shape == (3, 5)
    assert_equal(plain, load(sources, cache=cache, workers=workers))
    assert_equal(plain[7:], load(sources, cache=cache, workers=workers, start_step=7))


@pytest.mark.parametrize("cache", ["ram", "device"])
def test_ranks_and_balanced_batches_are_the_same_too(sources, cache):
    for rank in (0, 4):  # some ranks have no rows
        options = {"rank": rank, "world_size": 5}
        assert_equal(load(sources, **options), load(sources, cache=cache, **options))
    options = {"balance": Balance(2, 6), "batch": None}  # small classes repeat samples
    assert_equal(load(sources, **options), load(sources, cache=cache, **options))


def test_a_run_may_go_on_with_another_cache(sources):
    whole = load(sources)
    parts = [
        load(sources, start_step=start, steps=start + 2, cache=cache)
        for start, cache in zip(
            range(0, 10, 2), ["ram", "device", "none", "device", "ram"], strict=True
        )
    ]
    assert_equal(whole, [step for part in parts for step in part])


def test_resident_pixels_lie_on_the_device_and_are_read_once(tmp_path):
    manifest = packed(tmp_path)
    rows = manifest.select("shape", "train")
    source = StreamSource(manifest, rows, manifest.classes, True, 24, 3, AUGMENT)
    loader = open_loader({"shapes": source}, batch=4, seed=0, steps=6, cache="device", device="cpu")
    first = list(loader)
    (held,) = loader._resident.values()
    assert held._pixels.shape == (10, 5, 1, 24, 24)
    assert held._pixels.device.type == "cpu"
    for shard in Path(manifest.root).glob("*.tar"):
        shard.unlink()
    assert_equal(first, list(loader))


def test_workers_of_a_resident_stream_send_no_pixels(sources):
    loading = LoadingPlan({"shapes": sources["shapes"]}, batch={"shapes": 3}, seed=0, steps=2)
    options = {"rank": 0, "world_size": 1, "cache_bytes": 0}
    batches = StepBatches(loading, **options)
    blind = StepBatches(loading, pixels=False, **options)
    full, empty = batches[1]["shapes"], blind[1]["shapes"]
    assert empty.pixels.numel() == 0
    for name in ("label", "row", "position", "views", "jitter"):
        assert torch.equal(getattr(full, name), getattr(empty, name)), name


def test_a_stream_that_does_not_fit_is_refused(sources, monkeypatch):
    need = len(sources["photos"].rows) * 3 * 24**2
    options = {"cache": "device", "steps": 1}
    monkeypatch.setattr(resident, "free_bytes", lambda device: int(need / 0.8) + 2)
    assert len(load({"photos": sources["photos"]}, **options)) == 1
    monkeypatch.setattr(resident, "free_bytes", lambda device: int(need / 0.8) - 2)
    with pytest.raises(
        DataError, match=r"stream 'photos' needs .* GiB on cpu, where .* GiB are free"
    ):
        load({"photos": sources["photos"]}, **options)
    with pytest.raises(DataError, match=r"use training\.cache=ram"):
        load({"photos": sources["photos"]}, **options)


def test_free_memory_is_that_of_this_machine():
    assert 1 << 20 < resident.free_bytes(torch.device("cpu")) < 1 << 50


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_sample_is_named_before_the_first_step(tmp_path, workers):
    manifest = packed(tmp_path)
    rows = manifest.select("image", "train")
    shard = manifest.shards[int(manifest.shard_ids[rows[-1]])]
    path = Path(manifest.root) / shard.name
    data = np.fromfile(path, dtype=np.uint8)
    member = manifest.members[rows[-1]][-1 if len(manifest.members[rows[-1]]) == 1 else 1]
    data[member.offset : member.offset + member.size] = 0
    data.tofile(path)
    source = StreamSource(manifest, rows, manifest.classes, True, 24)
    running = iter(
        open_loader({"s": source}, batch=2, seed=0, steps=99, cache="device", workers=workers)
    )
    with pytest.raises(DataError, match=f"sample '{manifest.keys[rows[-1]]}'"):
        next(running)
