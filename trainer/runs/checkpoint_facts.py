"""``checkpoint.json``: the facts of a checkpoint, a small file with its own hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.runs.records import finite_json, write_json

FORMAT = 2
READABLE = (1, 2)  # 1 had no hash of its facts
FACTS = "checkpoint.json"


class UnusableError(Exception):
    """Why a folder is not a checkpoint to load."""


def write_facts(checkpoint: Path, facts: Mapping[str, Any]) -> None:
    """Write the JSON values ``facts`` into the folder ``checkpoint``, with format and hash.

    Raises:
        OSError: the disk is full or not writable.
    """
    known = {"format": FORMAT, **facts}
    write_json(checkpoint / FACTS, {**known, "facts_sha256": _digest(known)})


def read_facts(checkpoint: Path) -> dict[str, Any]:
    """What :func:`write_facts` wrote, ``step`` and ``sha256`` among it.

    Raises:
        UnusableError: missing, torn or altered, or of another format.
    """
    try:
        facts = json.loads((checkpoint / FACTS).read_text())
        found, own = facts["format"], facts.pop("facts_sha256", None)
        _, facts["step"] = facts["sha256"], int(facts["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise UnusableError(f"not a whole checkpoint ({type(err).__name__}: {err})") from None
    if found not in READABLE:
        raise UnusableError(f"checkpoint format {found}, this version reads up to {FORMAT}")
    if found > 1 and own != _digest(facts):
        raise UnusableError(f"{FACTS} does not match its hash")
    return facts


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(finite_json(dict(facts)), sort_keys=True).encode()).hexdigest()
