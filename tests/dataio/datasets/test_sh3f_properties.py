"""Java's .properties files, against what java.util.Properties.load is documented to read."""

from __future__ import annotations

import pytest

from dataio.datasets.sh3f_properties import parse_properties


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1\nb:2\nc 3\nd\t4", {"a": "1", "b": "2", "c": "3", "d": "4"}),
        ("a = 1\n  b  :  2  \nc   =3", {"a": "1", "b": "2  ", "c": "3"}),
        ("a==b\nc=:d\ne : = f", {"a": "=b", "c": ":d", "e": "= f"}),
        ("a\nb=\nc:", {"a": "", "b": "", "c": ""}),
        ("# c=1\n!d=2\n  # e=3\n\n \t\na=#1 ! 2", {"a": "#1 ! 2"}),
        ("a=one, \\\n   two\\\n\tthree\nb=2", {"a": "one, twothree", "b": "2"}),
        ("a=1\\\\\nb=2", {"a": "1\\", "b": "2"}),
        ("a=1\\\\\\\n 2", {"a": "1\\2"}),
        ("a=1\\", {"a": "1"}),
        ("# comment \\\na=1", {"a": "1"}),
        ("a=1\\\n# no comment", {"a": "1# no comment"}),
        ("a=\\\n\nb=2", {"a": "", "b": "2"}),
        ("a\\ b\\=c\\:d=1", {"a b=c:d": "1"}),
        ("id\\#1=x\nid#2=Lib\\#chair", {"id#1": "x", "id#2": "Lib#chair"}),
        ("a=\\t\\n\\r\\f\\z\\\\", {"a": "\t\n\r\fz\\"}),
        ("a=Caf\\u00e9 \\u20AC", {"a": "Café €"}),
        ("a=\\ud83e\\ude91", {"a": "\U0001fa91"}),
        ("\\u0061=1", {"a": "1"}),
        ("a=\\u12", {"a": "u12"}),
        ("a=1\r\nb=2\rc=3\n", {"a": "1", "b": "2", "c": "3"}),
        ("a=1\\\r\n  2", {"a": "12"}),
        ("a=1\na=2", {"a": "2"}),
        ("=1\n:2", {"": "2"}),
        ("a\\\n=1", {"a": "1"}),
        ("", {}),
    ],
)
def test_what_java_reads(text, expected):
    assert parse_properties(text.encode("iso-8859-1")) == expected


def test_bytes_are_iso_8859_1():
    assert parse_properties(b"name=\xa9 Caf\xe9 \x85 \x1c") == {"name": "© Café \x85 \x1c"}
