"""Names of classes and options: one spelling to compare by, synonyms, and the nearest match."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

_LISTED = 30  # names in an error message

# What the data sets of the field call one and the same class.
SYNONYMS: tuple[frozenset[str], ...] = (
    frozenset({"sofa", "couch", "settee", "studio_couch"}),
    frozenset({"bookshelf", "bookcase"}),
    frozenset({"airplane", "aeroplane", "plane"}),
    frozenset({"bicycle", "bike"}),
    frozenset({"motorcycle", "motorbike"}),
    frozenset({"monitor", "computer_monitor"}),
    frozenset({"pistol", "handgun"}),
)


def one_form(text: str) -> str:
    """The text in Unicode's form NFC: names from macOS, in NFD, look the same and compare unequal.

    >>> one_form("Stu\u0308hle") == "St\u00fchle"
    True
    """
    return unicodedata.normalize("NFC", text)


def canonical_name(raw: str) -> str:
    """A class name to compare by: in NFC, case-folded, trimmed, spaces and hyphens to `_`, without
    a bracketed suffix.

    >>> canonical_name("Flower-Pot (2)")
    'flower_pot'
    """
    bare = re.sub(r"[\s_-]*[(\[][^)\]]*[)\]]\s*$", "", one_form(raw)).strip().casefold()
    return one_form(re.sub(r"[\s-]+", "_", bare))


def synonyms(name: str) -> frozenset[str]:
    """All names of the class that is called `name`, itself included.

    >>> sorted(synonyms("couch"))
    ['couch', 'settee', 'sofa', 'studio_couch']
    """
    return next((group for group in SYNONYMS if name in group), frozenset({name}))


def nearest(name: str, known: Iterable[str]) -> str:
    """End of an error message about an unknown `name`: the nearest known one, or the known ones."""
    known = list(known)
    spelt = {k.casefold(): k for k in known}
    close = difflib.get_close_matches(name.casefold(), spelt, n=1)
    if close:
        return f"; did you mean '{spelt[close[0]]}'?"
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return f"; known: {', '.join(known[:_LISTED])}{more}"
