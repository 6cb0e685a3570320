"""The views of a shape, gathered from numbered files into a ring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import Field

from dataio.datasets.adapter_type import AdapterOptions
from dataio.findings import Finding, Findings

View = tuple[int, Path]  # its number, its file


class RingOptions(AdapterOptions):
    """Options of a data set whose shapes are folders or runs of numbered views."""

    missing_views: Literal["error", "skip", "repeat"] = Field(
        default="error",
        description="A shape with views missing: error, left out, or the view before each gap "
        "stands in.",
    )


def usual_numbers(shapes: Iterable[Iterable[View]], *, views: int | None) -> tuple[int, ...]:
    """The view numbers of most shapes, sorted; of those with `views` numbers alone, if it is given.

    If no shape has so many, they are 1..views.
    """
    sets = Counter(tuple(sorted({number for number, _ in shape})) for shape in shapes)
    usual = [numbers for numbers in sets if views is None or len(numbers) == views]
    if not usual:
        return tuple(range(1, (views or 0) + 1))
    return max(usual, key=lambda numbers: (sets[numbers], len(numbers), numbers))


@dataclass
class Rings:
    """Turns the numbered files of one shape after another into views in ring order."""

    options: RingOptions
    findings: Findings
    _filled: list[str] = field(default_factory=list)

    def views(
        self, shape: str, files: Iterable[View], numbers: tuple[int, ...]
    ) -> tuple[Path, ...] | None:
        """The views of `shape` by `numbers`, which are sorted; None if the shape is left out.

        A number that comes twice or is not of `numbers` is a defect.
        """
        held: dict[int, Path] = {}
        for number, file in files:
            if number in numbers and number not in held:
                held[number] = file
                continue
            problem = "a second time" if number in held else f"not of {_shown(numbers)}"
            self.findings.defect(
                f"{shape}/{file.name}",
                f"{str(file)!r} is view {number}, {problem}",
                remedy="remove it",
            )
        gaps = [number for number in numbers if number not in held]
        if not gaps:
            return tuple(held[number] for number in numbers)
        return self._with_gaps(shape, held, numbers, gaps)

    def _with_gaps(
        self, shape: str, held: Mapping[int, Path], numbers: tuple[int, ...], gaps: list[int]
    ) -> tuple[Path, ...] | None:
        listed = ", ".join(f"{number:03d}" for number in gaps)
        problem = f"shape {shape} has {len(held)} of {len(numbers)} views (missing {listed})"
        policy = self.options.missing_views
        if policy == "skip":
            self.findings.skipped.append(Finding(shape, problem))
            return None
        if policy == "error" or not held:
            self.findings.defect(
                shape,
                problem,
                remedy="Re-extract the archive, or pass -o missing_views=skip or repeat",
            )
            return None
        self._filled.append(problem)
        # The nearest view before the gap, going round the ring from the last to the first.
        before = sorted(held)
        nearest = [
            max((n for n in before if n <= number), default=before[-1]) for number in numbers
        ]
        return tuple(held[number] for number in nearest)

    def report(self) -> None:
        """Note how many shapes had views repeated; to be called after the last one."""
        if self._filled:
            self.findings.note(
                f"{len(self._filled)} shapes have views repeated; first: {self._filled[0]}"
            )


def _shown(numbers: tuple[int, ...]) -> str:
    if numbers and len(numbers) == numbers[-1] - numbers[0] + 1:
        return f"{numbers[0]}..{numbers[-1]}"
    return ", ".join(map(str, numbers))
