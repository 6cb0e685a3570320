"""Shell scripts that stand in for apt-get and dpkg."""

from __future__ import annotations

from pathlib import Path

DOWNLOADS = 'test "$1 $2" = "download sweethome3d-furniture" && echo whole > furniture_1_all.deb'
UNPACKS = (
    'test "$1" = -x && mkdir -p "$3/usr/share/sweethome3d/furniture" '
    '&& cp "$2" "$3/usr/share/sweethome3d/furniture/Lamps.sh3f"'
)


def put_programs(folder: Path, **scripts: str) -> None:
    """Write programs into a folder that is on PATH; ``apt_get`` is apt-get."""
    folder.mkdir(exist_ok=True)
    for name, script in scripts.items():
        file = folder / name.replace("_", "-")
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
