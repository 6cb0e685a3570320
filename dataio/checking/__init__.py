"""Is a packed data set sound? Hashes, leakage between splits, inspection, the contact sheet.

May import: dataio, dataio.shards.
"""

from dataio.checking.inspection import (
    chosen,
    class_counts,
    describe,
    groups,
    one_sided,
    read_headers,
)
from dataio.checking.sheet import contact_sheet, views_sheet
from dataio.checking.soundness import SameContent, Soundness, check, repair

__all__ = [
    "SameContent",
    "Soundness",
    "check",
    "chosen",
    "class_counts",
    "contact_sheet",
    "describe",
    "groups",
    "one_sided",
    "read_headers",
    "repair",
    "views_sheet",
]
