import subprocess
import sys
import time

import numpy as np
import pytest

from dataio.loading.plan import (
    PADDING,
    StreamOrder,
    batch_at,
    pass_order,
    rank_bounds,
    rank_slice,
    sequential,
    steps_per_pass,
    stream_number,
)
from dataio.records import DataError

SHARD_IDS = np.repeat(np.arange(7) * 3, [5, 9, 1, 12, 6, 8, 4])  # 45 samples, 7 shards


def order(**changes) -> np.ndarray:
    return pass_order(SHARD_IDS, **{"seed": 3, "stream_id": 1, "pass_index": 0, **changes})


def test_pass_order_is_a_permutation():
    for pass_index in range(4):
        assert sorted(order(pass_index=pass_index)) == list(range(45))


@pytest.mark.parametrize("change", [{"seed": 4}, {"stream_id": 2}, {"pass_index": 1}])
def test_pass_order_depends_on_each_argument(change):
    assert not np.array_equal(order(), order(**change))
    assert np.array_equal(order(**change), order(**change))


def test_pass_order_is_the_same_on_every_machine():
    # Frozen: a change here changes every training run ever started.
    frozen = pass_order(np.repeat([0, 1, 2], 4), seed=7, stream_id=2, pass_index=5, block_shards=2)
    again = subprocess.run(
        [
            sys.executable,
            "-c",
            "import numpy as np; from dataio.loading.plan import pass_order;"
            "ids = np.repeat([0, 1, 2], 4);"
            "print(*pass_order(ids, seed=7, stream_id=2, pass_index=5, block_shards=2))",
        ],
        env={"PYTHONHASHSEED": "77"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert again.stdout.split() == [str(i) for i in frozen]
    assert frozen.tolist() == [8, 4, 7, 10, 9, 11, 5, 6, 2, 0, 3, 1]


@pytest.mark.parametrize("block_shards", [1, 2, 3, 10])
def test_pass_visits_shards_in_blocks(block_shards):
    visited = SHARD_IDS[order(block_shards=block_shards)]
    remaining = list(visited)
    blocks = 0
    while remaining:
        # The next block: its shards' samples, all of them, come before any other shard's.
        shards: set[int] = set()
        for shard in remaining:
            if shard not in shards and len(shards) == block_shards:
                break
            shards.add(shard)
        size = int(np.isin(SHARD_IDS, list(shards)).sum())
        assert set(remaining[:size]) == shards
        remaining = remaining[size:]
        blocks += 1
    assert blocks == -(-7 // block_shards)


def test_samples_of_a_block_are_mixed():
    visited = SHARD_IDS[order(block_shards=7)]
    changes = int((visited[1:] != visited[:-1]).sum())
    assert changes > 20  # 6 if whole shards followed one another


def test_each_sample_once_a_pass_and_padding_only_at_its_end():
    stream = StreamOrder(SHARD_IDS, seed=1, stream_id=stream_number("source"))
    steps = steps_per_pass(45, 8)
    assert steps == 6
    for pass_index in range(3):
        batches = [batch_at(stream, pass_index * steps + i, 8) for i in range(steps)]
        assert all(b.shape == (8,) for b in batches)
        assert all((b != PADDING).all() for b in batches[:-1])
        assert batches[-1].tolist()[5:] == [PADDING] * 3
        real = np.concatenate(batches)
        assert sorted(real[real != PADDING]) == list(range(45))


def test_any_step_is_reached_directly():
    ids = np.repeat(np.arange(50), 100)
    far = StreamOrder(ids, seed=1, stream_id=0)
    batch_at(far, 0, 64)
    start = time.perf_counter()
    batch = batch_at(far, 10**6, 64)
    assert time.perf_counter() - start < 0.5
    pass_index, within = divmod(10**6, steps_per_pass(5000, 64))
    whole = pass_order(ids, seed=1, stream_id=0, pass_index=pass_index)
    assert np.array_equal(batch, whole[within * 64 : within * 64 + 64])


def test_steps_may_be_asked_for_in_any_order():
    forward = StreamOrder(SHARD_IDS, seed=1, stream_id=0)
    expected = [batch_at(forward, step, 8) for step in range(20)]
    jumping = StreamOrder(SHARD_IDS, seed=1, stream_id=0)
    for step in np.random.default_rng(0).permutation(20):
        assert np.array_equal(batch_at(jumping, int(step), 8), expected[step])


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 11])
def test_rank_slices_concatenate_to_the_global_batch(world_size):
    stream = StreamOrder(SHARD_IDS, seed=1, stream_id=0)
    for step in range(8):
        batch = batch_at(stream, step, 8)
        parts = [rank_slice(batch, rank, world_size) for rank in range(world_size)]
        assert np.array_equal(np.concatenate(parts), batch)
        sizes = [len(p) for p in parts]
        assert max(sizes) - min(sizes) <= 1
        bounds = [rank_bounds(8, rank, world_size) for rank in range(world_size)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == 8


def test_a_batch_larger_than_the_stream():
    stream = StreamOrder(SHARD_IDS[:3], seed=1, stream_id=0)
    for step in range(3):
        batch = batch_at(stream, step, 8)
        assert sorted(batch[:3]) == [0, 1, 2]
        assert (batch[3:] == PADDING).all()


def test_sequential():
    assert sequential(5, 2).tolist() == [[0, 1], [2, 3], [4, PADDING]]
    assert sequential(4, 2).tolist() == [[0, 1], [2, 3]]


def test_stream_numbers_are_fixed():
    assert stream_number("source") == 1602912115
    assert stream_number("source") != stream_number("target")


@pytest.mark.parametrize(
    "call",
    [
        lambda: steps_per_pass(0, 4),
        lambda: steps_per_pass(4, 0),
        lambda: rank_slice(np.arange(4), 2, 2),
        lambda: rank_slice(np.arange(4), -1, 2),
        lambda: order(seed=-1),
        lambda: order(block_shards=0),
        lambda: batch_at(StreamOrder(SHARD_IDS, seed=1, stream_id=0), -1, 4),
    ],
)
def test_bad_arguments_are_refused(call):
    with pytest.raises(DataError):
        call()
