"""Java's `.properties` files: text to keys and values, as `java.util.Properties.load` reads it."""

from __future__ import annotations

import re

_BLANK = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_LETTERS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_SURROGATE_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def parse_properties(content: bytes) -> dict[str, str]:
    r"""Keys and values of a file in ISO-8859-1, in its order; of a key that comes twice the last.

    A key ends at the first `=`, `:` or blank that no backslash escapes. A backslash at a line's end
    joins the next line, less its indent. `\uXXXX` is a character, two of them may be one beyond
    16 bits. Lines that begin with `#` or `!` are comments. Of a `\u` without four hexadecimal
    digits, which Java refuses, the backslash is dropped.

    >>> parse_properties(b"name\\#1 = Caf\\u00e9 \\\n   chair")
    {'name#1': 'Café chair'}
    """
    found: dict[str, str] = {}
    for line in _logical_lines(content.decode("iso-8859-1")):
        key, value = _split(line)
        found[_unescaped(key)] = _unescaped(value)
    return found


def _logical_lines(text: str) -> list[str]:
    """Lines less indents, comments and blank ones, each joined with those that continue it."""
    lines: list[str] = []
    joined: str | None = None  # a line so far whose end is escaped
    for natural in _LINE_END.split(text):
        line = natural.lstrip(_BLANK)
        if joined is None and (not line or line[0] in "#!"):
            continue
        line = (joined or "") + line
        joined = None
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            joined = line[:-1]
        else:
            lines.append(line)
    return lines if joined is None else [*lines, joined]


def _split(line: str) -> tuple[str, str]:
    end = 0
    while end < len(line) and line[end] not in f"=:{_BLANK}":
        end += 2 if line[end] == "\\" else 1
    value = line[end:].lstrip(_BLANK)
    if value[:1] in ("=", ":"):
        value = value[1:].lstrip(_BLANK)
    return line[:end], value


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    plain = _ESCAPE.sub(_character, text)
    # Java's strings are UTF-16: a character beyond 16 bits is written as two escapes.
    return _SURROGATE_PAIR.sub(
        lambda pair: pair[0].encode("utf-16", "surrogatepass").decode("utf-16"), plain
    )


def _character(escape: re.Match[str]) -> str:
    said = escape[1]
    if len(said) == 5:
        return chr(int(said[1:], 16))
    return _LETTERS.get(said, said)
