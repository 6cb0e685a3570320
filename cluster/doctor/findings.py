"""One result of a check, and what a list of them says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "error"]
GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """What a check found: ``error`` stops a run or spoils it, ``warning`` slows or endangers it,
    ``note`` is worth knowing. Warnings and errors have a remedy."""

    level: Level
    check: str
    message: str
    remedy: str = ""


def ok(check: str, message: str) -> Finding:
    return Finding("ok", check, message)


def note(check: str, message: str, remedy: str = "") -> Finding:
    return Finding("note", check, message, remedy)


def warning(check: str, message: str, remedy: str) -> Finding:
    return Finding("warning", check, message, remedy)


def error(check: str, message: str, remedy: str) -> Finding:
    return Finding("error", check, message, remedy)


def summary(findings: Sequence[Finding]) -> dict[str, Any]:
    """Plain JSON values: whether there is no error, counts by level, every finding."""
    counts = {level: _count(findings, level) for level in ("error", "warning", "note", "ok")}
    return {
        "ok": not counts["error"],
        "counts": counts,
        "findings": [asdict(finding) for finding in findings],
    }


def _count(findings: Iterable[Finding], level: str) -> int:
    return sum(finding.level == level for finding in findings)


def size(count_bytes: float) -> str:
    """``3.4 GiB``, below that ``120 MiB``."""
    if count_bytes >= GIB:
        return f"{count_bytes / GIB:.1f} GiB"
    return f"{count_bytes / (1 << 20):.0f} MiB"
