"""Amounts of memory as Kubernetes writes them."""

from __future__ import annotations

import re

from trainer.config import ConfigError

GIB = 1 << 30
_UNITS = {"Mi": 1 << 20, "Gi": GIB, "Ti": 1 << 40}


def parse_bytes(text: str, *, option: str) -> int:
    """Bytes of ``16Gi``.

    Raises:
        ConfigError: anything else, naming ``option``.
    """
    found = re.fullmatch(r"([1-9]\d{0,8})(Mi|Gi|Ti)", text.strip())
    if found is None:
        raise ConfigError(
            f"{option} '{text}': expected a whole number with Mi, Gi or Ti, like 16Gi"
        )
    return int(found[1]) * _UNITS[found[2]]


def shown_bytes(size_bytes: int) -> str:
    """The shortest exact way to write ``size_bytes``, which is rounded up to whole MiB."""
    mebibytes = -(-size_bytes // _UNITS["Mi"])
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"
