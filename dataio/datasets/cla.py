"""The classification files (`.cla`) of the Princeton Shape Benchmark and of the SHREC tracks.

    file   := "PSB" version classes models class*
    class  := name parent count id{count}
    parent := "0" | the name of a class defined above

Words are separated by any whitespace: line ends, blank lines and tabs mean nothing. A parent's
models do not include its children's, so inner nodes may have none; both totals of the header count
every class. The grammar is that of the benchmark's documentation (Shilane et al., SMI 2004).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dataio.records import DataError

_ROOT = "0"  # the parent of classes that have none
_VERSIONS = (1, 2)
_LINE_END = re.compile(r"\r\n|\r|\n")
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True)
class ClaClass:
    """One class; `models` maps each id, in the file's order, to the line it stands on."""

    name: str
    parent: str | None
    models: dict[str, int]
    line: int


@dataclass(frozen=True)
class ClaFile:
    """A whole file: its format version and its classes in order."""

    version: int
    classes: tuple[ClaClass, ...]


def read_cla(path: Path) -> ClaFile:
    """Read the file at `path`; DataError naming file and line if it cannot be read or is wrong."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot read ({error.strerror}); restore the file") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path} line {line}: not UTF-8 text; save it as plain text") from error
    return parse_cla(text, where=str(path))


def parse_cla(text: str, *, where: str) -> ClaFile:
    """Parse a file's text; errors call it `where`.

    Raises DataError for another kind of file, a version other than 1 and 2, a count that is no
    number, a class defined twice or under a parent that is not defined above it, a model listed
    twice, a file that ends early, and totals that differ from the header's.
    """
    words = _Words(text, where)
    magic = words.next("the word PSB")
    if magic != "PSB":
        raise words.error(f"not a PSB classification file, its first word is {magic!r}")
    version = words.number("the format version")
    if version not in _VERSIONS:
        raise words.error(f"format version {version}, only 1 and 2 are known")
    promised = words.number("the number of classes"), words.number("the number of models")
    header_line = words.line
    body = _Body(words)
    while words.left:
        body.read_class()
    held = len(body.classes), len(body.owners)
    if held != promised:
        raise DataError(
            f"{where} line {header_line}: header promises {promised[0]} classes and {promised[1]} "
            f"models, body holds {held[0]} and {held[1]}; correct the header or restore the file"
        )
    return ClaFile(version, tuple(body.classes.values()))


class _Words:
    """The words of a text one by one, each with its line."""

    def __init__(self, text: str, where: str) -> None:
        self._where = where
        self._words = list(_split(text.removeprefix("\ufeff")))
        self._taken = 0
        self.line = 1  # of the word taken last

    @property
    def left(self) -> bool:
        return self._taken < len(self._words)

    def next(self, what: str) -> str:
        if not self.left:
            raise self.error(f"the file ends where {what} was expected; restore it")
        word, self.line = self._words[self._taken]
        self._taken += 1
        return word

    def number(self, what: str) -> int:
        word = self.next(what)
        if not _WHOLE_NUMBER.fullmatch(word):
            raise self.error(f"expected {what}, a whole number, found {word!r}")
        return int(word)

    def error(self, problem: str) -> DataError:
        return DataError(f"{self._where} line {self.line}: {problem}")


def _split(text: str) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(_LINE_END.split(text), start=1):
        for word in line.split():
            yield word, number


@dataclass
class _Body:
    """The classes read so far, and the class and line of every model."""

    words: _Words
    classes: dict[str, ClaClass] = field(default_factory=dict)
    owners: dict[str, tuple[str, int]] = field(default_factory=dict)

    def read_class(self) -> None:
        words = self.words
        name, line = words.next("a class name"), words.line
        if name == _ROOT:
            raise words.error("a class is called '0', which stands for no parent")
        if name in self.classes:
            first = self.classes[name].line
            raise words.error(f"class {name!r} is defined twice, first on line {first}")
        parent = words.next(f"the parent of class {name!r}")
        if parent != _ROOT and parent not in self.classes:
            raise words.error(
                f"class {name!r} names parent {parent!r}, which is not defined above it"
            )
        count = words.number(f"the number of models of class {name!r}")
        models = {}
        for k in range(1, count + 1):
            model = words.next(f"model {k} of {count} of class {name!r}")
            self._claim(model, name)
            models[model] = words.line
        self.classes[name] = ClaClass(name, None if parent == _ROOT else parent, models, line)

    def _claim(self, model: str, name: str) -> None:
        if model in self.owners:
            other, line = self.owners[model]
            where = f"under {other!r} (line {line}) and under {name!r}"
            raise self.words.error(
                f"model {model!r} is listed twice, {where}; or a class's count is wrong"
            )
        self.owners[model] = name, self.words.line
