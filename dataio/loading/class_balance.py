"""Class-balanced batches: the same P classes with K samples each in every stream, no buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dataio.loading.plan import random_words, stream_number
from dataio.records import DataError

_CLASS_ORDER, _SAMPLE_ORDER = 2, 3  # continues the purposes numbered in dataio.loading.plan
_EVERY_STREAM = 1 << 32  # no stream's number


@dataclass(frozen=True)
class Balance:
    """P×K batches: P `classes`, and K `samples` of each."""

    classes: int
    samples: int

    def __post_init__(self) -> None:
        if self.classes < 1 or self.samples < 1:
            raise DataError(
                "balance needs classes >= 1 and samples >= 1, "
                f"got {self.classes} and {self.samples}"
            )

    @property
    def rows(self) -> int:
        """P·K, the rows of every batch."""
        return self.classes * self.samples


class BalancedOrder:
    """The endless sequence of P×K batches of several streams that share their classes.

    Every step draws anew, whatever earlier steps drew: any step can be asked for directly. A step's
    classes depend on (seed, step) only, the samples also on the stream's name.
    """

    def __init__(self, class_ids: Mapping[str, np.ndarray], *, balance: Balance, seed: int) -> None:
        """Prepare to draw from the classes that all streams have.

        Args:
            class_ids: stream name -> int [N], the class of each position; negative = unlabelled,
                never drawn.
            balance: P and K.
            seed: of all draws, in [0, 2^64).

        Raises:
            DataError: fewer than P classes are in all streams.
        """
        assert class_ids, "no streams"
        self._balance, self._seed = balance, seed
        self._members = {name: _by_class(np.asarray(ids)) for name, ids in class_ids.items()}
        present = [set(members) for members in self._members.values()]
        self._common = np.array(sorted(set.intersection(*present)), dtype=np.int64)
        if len(self._common) < balance.classes:
            raise DataError(
                f"balance asks for {balance.classes} classes a batch, but the streams "
                f"{', '.join(class_ids)} have {len(self._common)} labelled classes in common; "
                "ask for fewer, or choose streams that share more"
            )

    def classes(self, step: int) -> np.ndarray:
        """The P distinct classes of `step`, int64 [P]: those of every stream, in batch order."""
        words = self._words(len(self._common), _EVERY_STREAM, step, _CLASS_ORDER)
        return self._common[np.argsort(words, kind="stable")[: self._balance.classes]]

    def draw(self, name: str, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Stream `name`'s global batch of `step`: positions and passes, both int64 [P*K].

        Class after class in the order of `classes`, K distinct samples each. A class with n < K
        samples gives each of them floor(K/n) or ceil(K/n) times. No two occurrences of a sample, in
        this step or any other, have the same pass number: each is augmented in its own way.
        """
        members = [self._members[name][c] for c in self.classes(step).tolist()]
        words = self._words(sum(map(len, members)), stream_number(name), step, _SAMPLE_ORDER)
        parts = np.split(words, np.cumsum([len(m) for m in members])[:-1])
        places = np.arange(self._balance.samples)
        shuffled = [m[np.argsort(w, kind="stable")] for m, w in zip(members, parts, strict=True)]
        positions = np.concatenate([m[places % len(m)] for m in shuffled])
        repeats = np.concatenate([places // len(m) for m in members])  # 0, 1, .. < K
        return positions, step * self._balance.samples + repeats

    def _words(self, count: int, stream_id: int, step: int, purpose: int) -> np.ndarray:
        return random_words(count, key=(self._seed, stream_id), counter=(step, purpose))


def _by_class(class_ids: np.ndarray) -> dict[int, np.ndarray]:
    """Class -> its positions int64 [n], ascending; unlabelled ones left out."""
    order = np.argsort(class_ids, kind="stable")
    present, start = np.unique(class_ids[order], return_index=True)
    parts = np.split(order.astype(np.int64), start[1:])
    return {c: part for c, part in zip(present.tolist(), parts, strict=True) if c >= 0}
