"""Which class an ILSVRC2012 validation photo is of, where the photos are not sorted into folders.

The labels come as one of
- `ILSVRC2012_validation_ground_truth.txt` of the development kit: line k holds the number of photo
  k's class. The numbers are the kit's own, not the alphabetical order that most programs use, so
  they need its `meta.mat`, or a text file of the same content;
- a text file whose line k is the WordNet id of photo k;
- `LOC_val_solution.csv` of the Kaggle copy.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dataio.datasets.listing import read_text
from dataio.records import DataError

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
WNID = re.compile(r"n\d{8}")

_LISTED = re.compile(r"(n\d{8})(\s.*)?")
_NUMBERED = re.compile(r"(\d+)[\s,]+(n\d{8})\b.*")
_SOLUTION = re.compile(r"ILSVRC2012_val_(\d{8}),(n\d{8})\b.*")


def val_wnids(labels: Path, devkit: Path | None, *, dataset: str) -> dict[int, str]:
    """WordNet id by the number of the photo, from 1.

    Args:
        labels: one of the files above.
        devkit: `meta.mat`, the kit's folder, or a text file: `<number> <WordNet id>` a line, or the
            WordNet id of class k on line k. Needed for labels that are numbers.
        dataset: name of the data set in errors.

    Raises:
        DataError: a file that cannot be read or is none of these, with its line, or numbers without
            `devkit`.
    """
    lines = _lines(labels, dataset)
    if lines and lines[0].casefold().startswith("imageid,"):
        found = [_matched(_SOLUTION, lines, k, labels, dataset) for k in range(1, len(lines))]
        return {int(match[1]): match[2] for match in found}
    if lines and lines[0].isdecimal():
        if devkit is None:
            raise DataError(
                f"{dataset}: {str(labels)!r} holds numbers of classes; give devkit=meta.mat too, "
                "which says what they stand for"
            )
        classes = _kit_classes(devkit, dataset)
        return {k: _of_number(classes, lines, k, labels, devkit, dataset) for k in _numbers(lines)}
    return {k: _matched(_LISTED, lines, k - 1, labels, dataset)[1] for k in _numbers(lines)}


def _numbers(lines: Sequence[str]) -> range:
    return range(1, len(lines) + 1)


def _of_number(
    classes: dict[int, str], lines: list[str], line: int, labels: Path, devkit: Path, dataset: str
) -> str:
    text = lines[line - 1]
    if not text.isdecimal() or int(text) not in classes:
        raise DataError(
            f"{dataset}: {str(labels)!r} line {line}: {text!r} is not one of the {len(classes)} "
            f"class numbers of {str(devkit)!r}; give files of the same development kit"
        )
    return classes[int(text)]


def _kit_classes(devkit: Path, dataset: str) -> dict[int, str]:
    """WordNet id by class number."""
    for inner in ("data/meta.mat", "meta.mat"):
        if (devkit / inner).is_file():
            devkit = devkit / inner
    if devkit.suffix.lower() == ".mat":
        return _of_matlab(devkit, dataset)
    lines = _lines(devkit, dataset)
    if lines and lines[0][:1].isdigit():
        found = [_matched(_NUMBERED, lines, k, devkit, dataset) for k in range(len(lines))]
        return {int(match[1]): match[2] for match in found}
    wnids = [_matched(_LISTED, lines, k, devkit, dataset)[1] for k in range(len(lines))]
    if wnids == sorted(wnids):
        raise DataError(
            f"{dataset}: devkit {str(devkit)!r} lists the classes in alphabetical order, and the "
            "class numbers of the ground truth follow another; give devkit=meta.mat"
        )
    return dict(enumerate(wnids, 1))


def _of_matlab(file: Path, dataset: str) -> dict[int, str]:
    from scipy.io import loadmat  # slow to import

    try:
        synsets = loadmat(str(file), squeeze_me=True)["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist(), strict=True)
        return {int(number): str(wnid) for number, wnid in rows}
    except FileNotFoundError as error:
        raise DataError(f"{dataset}: cannot read {str(file)!r}: {error.strerror}") from error
    except Exception as error:  # the reader raises almost anything on damaged files
        raise DataError(
            f"{dataset}: {str(file)!r} is not the meta.mat of the ILSVRC2012 development kit "
            f"({type(error).__name__}); copy the original file again"
        ) from error


def _lines(file: Path, dataset: str) -> list[str]:
    lines = [line.strip() for line in read_text(file, dataset=dataset).rstrip().split("\n")]
    if lines == [""]:
        raise DataError(f"{dataset}: {str(file)!r} is empty; copy the original file again")
    return lines


def _matched(
    pattern: re.Pattern[str], lines: Sequence[str], index: int, file: Path, dataset: str
) -> re.Match[str]:
    match = pattern.fullmatch(lines[index])
    if match is None:
        raise DataError(
            f"{dataset}: {str(file)!r} line {index + 1}: {lines[index]!r}, expected a WordNet id "
            "such as n03201208 as on the lines before; copy the original file again"
        )
    return match
