"""Which samples make up a step's batch: pure functions of (data set, seed, step), numpy only.

The order knows nothing of the number of ranks or of loader workers: a step's *global* batch is
fixed first and then cut into contiguous rank slices. Every step can be asked for directly, so
resuming needs no replay.

Random orders are sorts by the raw 64-bit words of Philox keyed by (seed, stream, pass). Raw words
are guaranteed by numpy to stay the same between releases, unlike `Generator.permutation`.
"""

from __future__ import annotations

import zlib

import numpy as np

from dataio.records import DataError

PADDING = -1  # marks the empty places of a pass's last batch

_SHARD_ORDER, _SAMPLE_ORDER = 0, 1
_WORD = 1 << 64


def stream_number(name: str) -> int:
    """A fixed number in [0, 2^32) for a stream's name (CRC-32; the same on every machine)."""
    return zlib.crc32(name.encode("utf-8"))


def random_words(count: int, *, key: tuple[int, int], counter: tuple[int, int]) -> np.ndarray:
    """uint64 [count] raw words of Philox4x64 under `key`, in the stream numbered by `counter`.

    `counter` fills the two high words of Philox's counter, so two counters never overlap.
    Raises DataError for a number outside [0, 2^64).
    """
    for number in (*key, *counter):
        if not 0 <= number < _WORD:
            raise DataError(f"seed and counters must be in [0, 2^64), got {number}")
    generator = np.random.Philox(
        key=np.array(key, dtype=np.uint64), counter=np.array([0, 0, *counter], dtype=np.uint64)
    )
    return np.asarray(generator.random_raw(count), dtype=np.uint64)


def pass_order(
    shard_ids: np.ndarray, *, seed: int, stream_id: int, pass_index: int, block_shards: int = 4
) -> np.ndarray:
    """The order of one pass over a stream: int64 [N], a permutation of positions 0..N-1.

    Shards are visited in shuffled order in blocks of `block_shards`; the samples of a block are
    shuffled together. So a pass reads at most `block_shards` shards at a time.

    Args:
        shard_ids: int [N], the shard of each position.
        seed, stream_id, pass_index: what the order depends on, each in [0, 2^64).
        block_shards: shards whose samples are mixed with one another.
    """
    if block_shards < 1:
        raise DataError(f"block_shards must be at least 1, got {block_shards}")
    shards, shard_of = np.unique(np.asarray(shard_ids), return_inverse=True)
    key = (seed, stream_id)
    place = np.empty(len(shards), dtype=np.int64)
    place[_visits(len(shards), key=key, pass_index=pass_index)] = np.arange(len(shards))
    sample_words = random_words(len(shard_of), key=key, counter=(pass_index, _SAMPLE_ORDER))
    block_of = (place // block_shards)[shard_of]
    return np.lexsort((sample_words, block_of)).astype(np.int64)


def _visits(shards: int, *, key: tuple[int, int], pass_index: int) -> np.ndarray:
    """The order in which a pass visits its shards, int64 [shards]."""
    words = random_words(shards, key=key, counter=(pass_index, _SHARD_ORDER))
    return np.argsort(words, kind="stable")


def steps_per_pass(samples: int, batch: int) -> int:
    """Batches that one pass over `samples` takes, the last one possibly short."""
    if samples < 1 or batch < 1:
        raise DataError(f"a pass needs samples >= 1 and batch >= 1, got {samples} and {batch}")
    return -(-samples // batch)


class StreamOrder:
    """The endless order of one stream; remembers only the permutation it used last."""

    def __init__(
        self, shard_ids: np.ndarray, *, seed: int, stream_id: int, block_shards: int = 4
    ) -> None:
        """`shard_ids` is int [N]; the other arguments are as in `pass_order`."""
        self._shard_ids = np.asarray(shard_ids)
        self._seed, self._stream_id, self._block_shards = seed, stream_id, block_shards
        self._pass_index, self._order = -1, np.empty(0, dtype=np.int64)
        self._shards = np.unique(self._shard_ids)

    @property
    def samples(self) -> int:
        """N, the samples of one pass."""
        return len(self._shard_ids)

    def order(self, pass_index: int) -> np.ndarray:
        """The permutation int64 [N] of pass `pass_index`."""
        if pass_index != self._pass_index:
            self._order = pass_order(
                self._shard_ids,
                seed=self._seed,
                stream_id=self._stream_id,
                pass_index=pass_index,
                block_shards=self._block_shards,
            )
            self._pass_index = pass_index
        return self._order

    def upcoming(self, step: int, batch: int) -> np.ndarray:
        """The distinct shards of the blocks that a step's batch is in and of the block after, in
        the order in which they are visited: int64 [k]."""
        rows = batch_at(self, step, batch)
        pass_index = step // steps_per_pass(self.samples, batch)
        key = (self._seed, self._stream_id)
        visited, then = (
            self._shards[_visits(len(self._shards), key=key, pass_index=index)]
            for index in (pass_index, pass_index + 1)
        )
        current = self._shard_ids[rows[rows != PADDING]]
        return blocks_ahead(visited, current, block_shards=self._block_shards, then=then)


def blocks_ahead(
    visited: np.ndarray, current: np.ndarray, *, block_shards: int, then: np.ndarray
) -> np.ndarray:
    """The shards of the blocks that `current` shards are in, and of the block after.

    Args:
        visited: int [S], a pass's distinct shards in the order in which it visits them.
        current: int [n], some of them, n >= 1.
        then: int [T], the next pass's, of which the block after the last block is.

    Returns:
        Distinct shards in the order of the visits, int64 [k].
    """
    blocks = np.flatnonzero(np.isin(visited, current)) // block_shards
    after = (blocks[-1] + 1) * block_shards
    ahead = visited[blocks[0] * block_shards : after + block_shards]
    if after >= len(visited):
        ahead = np.concatenate([ahead, then[:block_shards]])
    return np.array(list(dict.fromkeys(ahead.tolist())), dtype=np.int64)


def batch_at(stream: StreamOrder, step: int, batch: int) -> np.ndarray:
    """The global batch of `step`: positions int64 [batch], padded with PADDING.

    Step g belongs to pass g // ceil(N / batch). Only a pass's last batch holds padding, and at its
    end, so every sample counts exactly once a pass. Any step costs the same to ask for.
    """
    if step < 0:
        raise DataError(f"step must not be negative, got {step}")
    pass_index, within = divmod(step, steps_per_pass(stream.samples, batch))
    rows = stream.order(pass_index)[within * batch : (within + 1) * batch]
    return _padded(rows, batch)


def rank_bounds(count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Start and end of rank's contiguous part of `count` places; parts differ by at most one."""
    if not 0 <= rank < world_size:
        raise DataError(f"rank must be in [0, world_size={world_size}), got {rank}")
    return count * rank // world_size, count * (rank + 1) // world_size


def rank_slice(batch_rows: np.ndarray, rank: int, world_size: int) -> np.ndarray:
    """Rank's contiguous part of a global batch; the parts of all ranks concatenate to the batch.

    Works for any world size; with more ranks than places some parts are empty.
    """
    start, end = rank_bounds(len(batch_rows), rank, world_size)
    return batch_rows[start:end]


def sequential(samples: int, batch: int) -> np.ndarray:
    """Positions 0..samples-1 in order as int64 [steps, batch], the last row padded with PADDING."""
    steps = steps_per_pass(samples, batch)
    return _padded(np.arange(samples, dtype=np.int64), steps * batch).reshape(steps, batch)


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    out = np.full(length, PADDING, dtype=np.int64)
    out[: len(rows)] = rows
    return out
