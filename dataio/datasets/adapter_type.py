"""What an adapter is: a name, its options, and a function from a root folder to records.

An adapter reads a data set as its authors distribute it. It lists files and reads text (class
files, tables, indexes), never a pixel or a vertex. It either returns every record or raises a
DataError that names what was expected, what was found, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from dataio.findings import Findings
from dataio.records import Record


class AdapterOptions(BaseModel):
    """Options that every adapter has; subclasses add their own, each with a description."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(
        default=None,
        description="Name of the packed data set and first part of every key; null: the adapter's.",
    )
    classes: tuple[str, ...] | None = Field(
        default=None, description="Keep these classes alone, by the data set's own names."
    )


@dataclass(frozen=True)
class Adapter:
    """One data set (or one layout of it) that can be packed."""

    name: str  # as given on the command line
    title: str  # one line: what it is, with the source
    layout: str  # the tree it expects, one path a line
    terms: str  # licence in one line, and whether shards may be passed on
    options: type[AdapterOptions]
    records: Callable[[Path, Any, Findings], list[Record]]  # (root, options, findings)

    def read(self, root: Path, options: AdapterOptions, findings: Findings) -> list[Record]:
        """All records under `root`, in a fixed order; `options` is of type `self.options`."""
        return self.records(root, options, findings)
