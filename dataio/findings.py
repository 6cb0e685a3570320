"""Items of a data set that cannot be used: an error, or skipped and listed."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from dataio.records import DataError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """One item left out: what it is (a file, an id, a line of a file), and why."""

    item: str
    reason: str


@dataclass
class Findings:
    """Collects while a data set is read and packed.

    A *defect* is an item that cannot be used: an error, or with `lenient` a listed skip. An
    *expectation* is a published count or the like that the files do not meet: a warning, or with
    `strict` an error.
    """

    dataset: str
    lenient: bool = False
    strict: bool = False
    skipped: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)  # for the manifest's; JSON-serialisable

    def defect(self, item: str, reason: str, *, remedy: str = "") -> None:
        """Leave `item` out; raises DataError `<dataset>: <reason>` with the remedy if not lenient.

        `reason` names the file, and the line where there is one. The caller goes on without the
        item when this returns.
        """
        if not self.lenient:
            advice = f"; {remedy}" if remedy else ""
            raise DataError(f"{self.dataset}: {reason}{advice}, or pass --lenient to skip it")
        self.skipped.append(Finding(item, reason))

    def expect(self, met: bool, message: str) -> None:
        """Warn unless `met`; raises DataError instead under `strict`."""
        if met:
            return
        if self.strict:
            raise DataError(f"{self.dataset}: {message} (an error because of --strict)")
        self.note(message)

    def note(self, message: str) -> None:
        """Something to know about the data set that is not an error."""
        _log.info("%s: %s", self.dataset, message)
        self.warnings.append(message)
