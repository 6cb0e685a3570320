"""What each run is called and how it is drawn, the same on the whole page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from evalsuite.pages.plots import DASHES
from evalsuite.pages.runs import RunView
from evalsuite.pages.svg import RUN_COLOURS


@dataclass(frozen=True)
class RunLine:
    """A run's name on the page, and the index of its colour and dash pattern."""

    name: str
    index: int

    @property
    def colour(self) -> str:
        """The colour as a CSS value."""
        return f"var(--run-{self.index % len(RUN_COLOURS)})"

    @property
    def dashes(self) -> str:
        """The dash pattern as SVG writes it, empty for a solid line."""
        return " ".join(map(str, DASHES[self.index % len(DASHES)]))


def run_lines(runs: Sequence[RunView]) -> list[RunLine]:
    """Dotted grey for the first source-only run, then colours in order; equal names get numbers."""
    yardstick = next((run for run in runs if run.is_source_only), None)
    seen: Counter[str] = Counter()
    lines: list[RunLine] = []
    index = 0
    for run in runs:
        seen[run.name] += 1
        name = run.name if seen[run.name] == 1 else f"{run.name} ({seen[run.name]})"
        index += run is not yardstick
        lines.append(RunLine(name, 0 if run is yardstick else index))
    return lines
