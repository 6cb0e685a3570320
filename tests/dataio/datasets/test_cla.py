"""The grammar of .cla files: what is legal, and a message with file and line for what is not."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataio.datasets.cla import parse_cla, read_cla
from dataio.records import DataError

EXAMPLE = (
    "PSB 1\r\n5 6\r\n\r\nanimal 0 0\r\n\r\nhuman animal 2\r\n12\r\n7\r\n\r\n"
    "dog\tanimal\t1\r\n44\r\nvehicle 0 1\r\n3\r\ncar vehicle 2\r\n\t9 10 \r\n"
)
BODY = "chair 0 2\n1\n2\ntable 0 1\n3\n"


def table(text: str) -> dict[str, list[str]]:
    return {one.name: list(one.models) for one in parse_cla(text, where="x.cla").classes}


def test_inner_nodes_tabs_blank_lines_and_crlf(tmp_path):
    file = tmp_path / "x.cla"
    file.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.encode())
    read = read_cla(file)
    assert read.version == 1
    assert [(c.name, c.parent, list(c.models)) for c in read.classes] == [
        ("animal", None, []),
        ("human", "animal", ["12", "7"]),
        ("dog", "animal", ["44"]),
        ("vehicle", None, ["3"]),
        ("car", "vehicle", ["9", "10"]),
    ]
    human = read.classes[1]
    assert (human.line, human.models) == (6, {"12": 7, "7": 8})


def test_the_layout_of_the_lines_means_nothing():
    one_line = "PSB 2 2 3 " + " ".join(BODY.split())
    assert (
        table(one_line) == table(f"PSB\n2\n2\n3\n{BODY}") == {"chair": ["1", "2"], "table": ["3"]}
    )
    assert parse_cla(one_line, where="x").version == 2
    assert parse_cla("PSB 1 0 0", where="x").classes == ()
    assert table(f"PSB 1\r2 3\r{BODY}".replace("\n", "\r")) == table(one_line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.cla line 1: the file ends where the word PSB was expected"),
        ("OFF\n3 1 0\n", "x.cla line 1: not a PSB classification file, its first word is 'OFF'"),
        ("psb 1\n0 0\n", "line 1: not a PSB classification file, its first word is 'psb'"),
        ("PSB 3\n0 0\n", "line 1: format version 3, only 1 and 2 are known"),
        ("PSB one\n", "line 1: expected the format version, a whole number, found 'one'"),
        ("PSB 1\n2 -3\n", "line 2: expected the number of models, a whole number, found '-3'"),
        ("PSB 1\n2 " + "9" * 5000, "line 2: expected the number of models, a whole number"),
        ("PSB 1\n2", "line 2: the file ends where the number of models was expected"),
        (
            f"PSB 1\n2 4\n{BODY}",
            "x.cla line 2: header promises 2 classes and 4 models, body holds 2 and 3",
        ),
        (f"PSB 1\n3\n3\n{BODY}", "line 3: header promises 3 classes and 3 models, body holds 2 "),
        (f"PSB 1\n3 3\n{BODY}chair 0 0\n", "line 8: class 'chair' is defined twice, first on li"),
        ("PSB 1\n1 0\nchair seat 0\nseat 0 0", "line 3: class 'chair' names parent 'seat', whi"),
        ("PSB 1\n1 1\nchair 0 x\n1", "line 3: expected the number of models of class 'chair', a"),
        ("PSB 1\n1 1\n0 0 1\n1", "line 3: a class is called '0'"),
        (
            f"PSB 1\n3 4\n{BODY}bed 0 1\n2\n",
            "line 9: model '2' is listed twice, under 'chair' (line 5) and under 'bed'",
        ),
        ("PSB 1\n1 2\nchair 0 2\n1\n1\n", "line 5: model '1' is listed twice, under 'chair'"),
        ("PSB 1\n1 2\nchair 0 2\n1\n", "line 4: the file ends where model 2 of 2 of class 'chai"),
        ("PSB 1\n1 0\nchair\n", "line 3: the file ends where the parent of class 'chair' was ex"),
        ("PSB 1\n1 999999999\nchair 0 999999999\n1", "line 4: the file ends where model 2 of 99"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text, message):
    with pytest.raises(DataError) as caught:
        parse_cla(text, where="x.cla")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"absent\.cla: cannot read \(No such file"):
        read_cla(tmp_path / "absent.cla")
    file = tmp_path / "x.cla"
    file.write_bytes(b"PSB 1\n1 0\nch\xe9 0 0\n")
    with pytest.raises(DataError, match=r"x\.cla line 3: not UTF-8 text"):
        read_cla(file)


NAMES = st.text(string.ascii_letters + string.punctuation + "é椅", min_size=1, max_size=6)
SPACE = st.lists(st.sampled_from([" ", "\t", "\n", "\r\n", "\r"]), min_size=1, max_size=3)


@settings(deadline=None, database=None)
@given(data=st.data(), sizes=st.lists(st.integers(0, 4), max_size=6))
def test_any_table_survives_any_whitespace(data, sizes):
    names = data.draw(
        st.lists(NAMES.filter("0".__ne__), unique=True, min_size=len(sizes), max_size=len(sizes))
    )
    ids = iter(data.draw(st.lists(NAMES, unique=True, min_size=sum(sizes), max_size=sum(sizes))))
    wanted = {name: [next(ids) for _ in range(n)] for name, n in zip(names, sizes, strict=True)}
    parents = [data.draw(st.sampled_from(["0", *names[:k]])) for k in range(len(names))]
    words = ["PSB", str(data.draw(st.sampled_from([1, 2]))), str(len(names)), str(sum(sizes))]
    for parent, (name, models) in zip(parents, wanted.items(), strict=True):
        words += [name, parent, str(len(models)), *models]
    gaps = ["".join(data.draw(SPACE)) for _ in words]
    text = "".join(word + gap for word, gap in zip(words, gaps, strict=True))
    read = parse_cla(data.draw(st.sampled_from(["", "\ufeff"])) + text, where="x")
    assert {one.name: list(one.models) for one in read.classes} == wanted
    assert [one.parent or "0" for one in read.classes] == parents
    for one in read.classes:
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        assert all(model in lines[line - 1].split() for model, line in one.models.items())
