"""Fail if a page of the built site would load something from another server.

    python docs/no_requests.py build/site

Links that a reader follows are fine. Scripts, styles, fonts, pictures and frames are not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed|link)\b[^>]*?(?:src|href)=\"?((?:https?:)?//[^\"\s>]+)"
)
STYLED = re.compile(r"(?:@import\s+|url\()[\"']?((?:https?:)?//[^\"')\s]+)")


def requests(site: Path) -> Iterator[tuple[Path, str]]:
    """Pages and style sheets below ``site`` with the address that each would load."""
    for pattern, files in ((LOADED, "*.html"), (STYLED, "*.html"), (STYLED, "*.css")):
        for file in sorted(site.rglob(files)):
            for address in pattern.findall(file.read_text()):
                yield file, address


if __name__ == "__main__":
    found = list(requests(Path(sys.argv[1])))
    for file, address in found:
        print(f"{file}: loads {address}", file=sys.stderr)
    sys.exit(1 if found else 0)
