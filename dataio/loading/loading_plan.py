"""Which samples every batch of a run has, with their views and augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property

import numpy as np

from dataio.loading import plan
from dataio.loading.augment import all_views, draw, draw_views
from dataio.loading.class_balance import Balance, BalancedOrder
from dataio.loading.sources import (
    SampleTable,
    StreamSource,
    check_balanced,
    check_source,
    required_labels,
)
from dataio.records import DataError


@dataclass(frozen=True, eq=False)
class LoadingPlan:
    """All batches of a run, as a pure function of these fields; no pixels are read.

    A step's global batch does not depend on the number of ranks or of loader workers.

    Args:
        sources: stream name -> what to load; none in a run without steps. A stream's order depends
            on its name.
        seed: of orders, view choice and augmentation, in [0, 2^64).
        steps: steps of the whole run.
        batch: global batch size, one for all streams or one for each. A stream is read in passes;
            a pass's last batch may be short.
        balance: instead of `batch`, P classes x K samples for every stream at every step: the same
            classes in all streams, class after class in the same order. All sources must be
            labelled with the same classes. A sample that a small class repeats within a batch is
            augmented differently each time.
        block_shards: shards mixed with one another in a pass's order.

    Raises:
        DataError: an option out of range, both or neither of `batch` and `balance`, an empty
            source, a labelled source with a label that is missing or not among its classes, an
            unlabelled source or too few common classes for `balance`.
    """

    sources: Mapping[str, StreamSource]
    _: KW_ONLY
    seed: int
    steps: int
    batch: int | Mapping[str, int] | None = None
    balance: Balance | None = None
    block_shards: int = 4
    draws: Draws = field(init=False, repr=False)  # without the manifests and the hidden labels

    def __post_init__(self) -> None:
        if not self.sources and self.steps > 0:  # without steps nothing is drawn
            raise DataError("sources is empty; name at least one stream")
        if (self.batch is None) == (self.balance is None):
            raise DataError("name either batch (rows) or balance (classes x samples)")
        for name, source in self.sources.items():
            check_source(name, source)
        if self.balance is not None:
            check_balanced(self.sources)
        object.__setattr__(self, "draws", Draws(self))

    @cached_property
    def labels(self) -> dict[str, np.ndarray | None]:
        """Class numbers int64 [N] of each labelled stream; None where labels are hidden."""
        return {n: required_labels(n, s) if s.labelled else None for n, s in self.sources.items()}

    @cached_property
    def tables(self) -> dict[str, SampleTable]:
        """Where the samples of each stream lie."""
        return {name: SampleTable.of(source) for name, source in self.sources.items()}

    def places(self, step: int, *, world_size: int = 1) -> dict[str, Places]:
        """Which samples `step` has in each stream, over all ranks."""
        found = {}
        for name in self.sources:
            positions, passes = self.draws.samples(name, step)
            found[name] = Places(
                rows=self.tables[name].rows[positions],
                positions=positions,
                passes=passes,
                views=self.draws.views(name, positions, passes),
                bounds=tuple(
                    plan.rank_bounds(len(positions), rank, world_size) for rank in range(world_size)
                ),
            )
        return found


@dataclass(frozen=True, eq=False)
class Places:
    """Which samples make up one stream's global batch of a step, in order, padding left out."""

    rows: np.ndarray  # int64 [n], rows in the manifest
    positions: np.ndarray  # int64 [n], places among the source's rows
    passes: np.ndarray  # int64 [n], the pass that numbers each sample's views and augmentation
    views: np.ndarray  # int64 [n, v], the views loaded; zeros [n, 1] for single pictures
    bounds: tuple[tuple[int, int], ...]  # start and end of each rank's part


class Draws:
    """What a step draws from each stream: samples, views and augmentation.

    Loader workers get a copy, so it is small and holds no label that a source hides.
    """

    def __init__(self, loading: LoadingPlan) -> None:
        self._tables = loading.tables
        self._wanted_views = {name: source.views for name, source in loading.sources.items()}
        self._augment = {name: source.augment for name, source in loading.sources.items()}
        self._windows = {name: source.window for name, source in loading.sources.items()}
        self._seeds = {name: _stream_seed(loading.seed, name) for name in loading.sources}
        labels = loading.labels  # refuses a labelled stream with a sample that has none
        if loading.balance is not None:
            class_ids = {name: ids for name, ids in labels.items() if ids is not None}
            self._order = BalancedOrder(class_ids, balance=loading.balance, seed=loading.seed)
        else:
            self._order = _Passes(loading)

    def samples(self, name: str, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions among the source's rows, and their passes, of a global batch; int64 [n]."""
        return self._order.draw(name, step)

    def views(self, name: str, positions: np.ndarray, passes: np.ndarray) -> np.ndarray:
        """The views to load, int64 [n, v]; zeros [n, 1] for single pictures."""
        table, wanted = self._tables[name], self._wanted_views[name]
        if not table.stacked:
            return np.zeros((len(positions), 1), dtype=np.int64)
        if wanted is None:
            return all_views(table.views, positions)
        return draw_views(
            seed=self._seeds[name],
            pass_index=passes,
            rows=table.rows[positions],
            available=table.views[positions],
            count=wanted,
        )

    def jitter(
        self, name: str, positions: np.ndarray, passes: np.ndarray, *, views: int
    ) -> np.ndarray | None:
        """Augmentation parameters float32 [n, P], for shapes [n, views, P]; None without any."""
        table, augment = self._tables[name], self._augment[name]
        if augment is None:
            return None
        return draw(
            augment,
            seed=self._seeds[name],
            pass_index=passes,
            rows=table.rows[positions],
            views=views if table.stacked else None,
            window=self._windows[name],
        )

    def upcoming(self, name: str, step: int) -> list[int]:
        """Shards to have at hand, in order: this step's and those of the block after.

        None are named for balanced batches, which draw from all shards at any step.
        """
        return self._order.upcoming(name, step) if isinstance(self._order, _Passes) else []


class _Passes:
    """Every sample once a pass: positions of a step's global batch, and the pass they belong to."""

    def __init__(self, loading: LoadingPlan) -> None:
        sources, batch = loading.sources, loading.batch
        sizes = dict.fromkeys(sources, batch) if isinstance(batch, int) else dict(batch or {})
        if set(sizes) != set(sources) or any(size < 1 for size in sizes.values()):
            raise DataError(f"batch needs a size >= 1 for each of {sorted(sources)}, got {sizes}")
        self._sizes = sizes
        self._orders = {
            name: plan.StreamOrder(
                table.shard_ids,
                seed=loading.seed,
                stream_id=plan.stream_number(name),
                block_shards=loading.block_shards,
            )
            for name, table in loading.tables.items()
        }

    def draw(self, name: str, step: int) -> tuple[np.ndarray, np.ndarray]:
        order, size = self._orders[name], self._sizes[name]
        positions = plan.batch_at(order, step, size)
        real = positions[positions != plan.PADDING]
        return real, np.full(len(real), step // plan.steps_per_pass(order.samples, size))

    def upcoming(self, name: str, step: int) -> list[int]:
        return self._orders[name].upcoming(step, self._sizes[name]).tolist()


def _stream_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little")
