import logging
import sys
from pathlib import Path

import pytest

from dataio.records import DataError
from dataio.shards import location
from dataio.shards.location import (
    NotFound,
    exists,
    is_remote,
    join,
    normal,
    number_from,
    read_blocks,
    read_bytes,
    shown,
)
from tests.dataio.faulty_server import FaultyServer

CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(location, "_FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tmp_path):
    (tmp_path / "file.bin").write_bytes(CONTENT)
    with FaultyServer(tmp_path) as server:
        yield server


def test_places():
    assert not is_remote("data/set")
    assert not is_remote(Path("/data/set"))
    assert not is_remote("file:///data/set")
    assert all(is_remote(f"{p}://x/y") for p in ("http", "HTTPS", "s3", "gs", "memory"))
    assert normal("file:///data/a%20set/") == "/data/a set"
    assert normal(Path("data/set/")) == "data/set"
    assert normal("s3://bucket/set/") == "s3://bucket/set"


def test_join():
    assert join("data/set/", "a.tar") == "data/set/a.tar"
    assert join("file:///data/set", "a.tar") == "/data/set/a.tar"
    assert join("s3://b/set/", "a #1.tar") == "s3://b/set/a #1.tar"
    assert join("https://h/set/", "a #1?.tar") == "https://h/set/a%20%231%3F.tar"
    assert join("https://h/set/?sig=x%2By", "a.tar") == "https://h/set/a.tar?sig=x%2By"
    assert join("https://h/set", "/data/a.tar") == "/data/a.tar"
    assert join("data + more", "gs://b/a.tar") == "gs://b/a.tar"


def test_other_protocols_are_refused():
    with pytest.raises(DataError, match=r"^ftp://h/x: .*not read over ftp; .*http, https, s3, gs"):
        is_remote("ftp://me:word@h/x?sig=1")
    with pytest.raises(DataError, match="not read over ftp"):
        read_bytes("ftp://h/x")


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match=r's3://b/x: .*pip install "img2shape\[s3\]"'):
        read_bytes("s3://b/x")


def test_local_files(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert read_bytes(f"file://{tmp_path}/x") == read_bytes(tmp_path / "x") == b"abc"
    assert exists(tmp_path, "x")
    assert not exists(tmp_path, "y")
    with pytest.raises(NotFound, match="y: not found"):
        read_bytes(tmp_path / "y")
    with pytest.raises(DataError, match="cannot read"):
        read_bytes(tmp_path)


@pytest.mark.parametrize("fault", ["reset", "truncate", "stall", 500, 503, 429])
def test_transient_faults_heal(server, fault, monkeypatch):
    monkeypatch.setenv("IMG2SHAPE_READ_TIMEOUT_SECONDS", "0.3")
    server.plant("file.bin", fault, fault)
    assert read_bytes(f"{server.url}/file.bin") == CONTENT
    assert server.asked("file.bin") == 3
    server.plant("file.bin", fault)
    assert b"".join(read_blocks(f"{server.url}/file.bin", len(CONTENT))) == CONTENT


def test_a_slow_answer_is_no_fault(server):
    server.plant("file.bin", "drip")
    assert read_bytes(f"{server.url}/file.bin") == CONTENT
    assert server.asked("file.bin") == 1


@pytest.mark.parametrize(
    ("fault", "reason"), [(503, "HTTP 503"), ("reset", ".+"), ("truncate", ".+"), ("stall", ".+")]
)
def test_lasting_faults_end(server, fault, reason, monkeypatch):
    monkeypatch.setenv("IMG2SHAPE_READ_TIMEOUT_SECONDS", "0.1")
    server.plant("file.bin", fault, always=True)
    expected = rf"{server.url}/file.bin: cannot be read in 7 attempts \({reason}\); check the"
    with pytest.raises(DataError, match=expected):
        read_bytes(f"{server.url}/file.bin")
    assert server.asked("file.bin") == 7


def test_no_server(tmp_path):
    with FaultyServer(tmp_path) as server:
        url = server.url
    with pytest.raises(DataError, match=rf"{url}/x: cannot be read in 7 attempts \(.*[Cc]onnect"):
        read_bytes(f"{url}/x")


def test_what_will_not_change_is_not_tried_again(server):
    with pytest.raises(NotFound, match=rf"{server.url}/none: not found; check the address"):
        read_bytes(f"{server.url}/none")
    server.plant("file.bin", 403, 401, 400)
    for status in (403, 401):
        with pytest.raises(DataError, match=rf"not allowed \(HTTP {status}\); .*credentials"):
            read_bytes(f"{server.url}/file.bin")
    with pytest.raises(DataError, match=r"cannot be read \(HTTP 400\)"):
        read_bytes(f"{server.url}/file.bin")
    assert len(server.requests) == 4


def test_exists(server):
    assert exists(server.url, "file.bin")
    assert server.requests[-1].range == (0, 1)
    assert not exists(server.url, "none")
    server.plant("file.bin", 503, 403)
    assert not exists(server.url, "file.bin")  # as S3 answers for what is not there
    server.plant("file.bin", 500, always=True)
    with pytest.raises(DataError, match="HTTP 500"):
        exists(server.url, "file.bin")


def test_blocks_are_ranges_and_a_fault_costs_one(server, monkeypatch):
    monkeypatch.setattr(location, "_BLOCK_BYTES", 4000)
    blocks = read_blocks(f"{server.url}/file.bin", len(CONTENT))
    first = next(blocks)
    server.plant("file.bin", "reset")
    assert b"".join([first, *blocks]) == CONTENT
    spans = [request.range for request in server.requests]
    assert spans == [(0, 4000), (4000, 8000), (4000, 8000), (8000, 10240)]


def test_an_object_of_another_size_ends_early_or_is_cut(server, monkeypatch):
    monkeypatch.setattr(location, "_BLOCK_BYTES", 5120)
    url = f"{server.url}/file.bin"
    assert b"".join(read_blocks(url, 10**6)) == CONTENT
    assert b"".join(read_blocks(url, 6000)) == CONTENT[:6000]
    (server.folder / "empty").touch()
    assert list(read_blocks(f"{server.url}/empty", 10)) == []
    assert exists(server.url, "empty")


def test_a_server_without_ranges(tmp_path, monkeypatch):
    monkeypatch.setattr(location, "_BLOCK_BYTES", 4000)
    (tmp_path / "file.bin").write_bytes(CONTENT)
    with FaultyServer(tmp_path, ranges=False) as server:
        assert b"".join(read_blocks(f"{server.url}/file.bin", len(CONTENT))) == CONTENT
        assert server.asked("file.bin") == 1
        assert exists(server.url, "file.bin")


def test_names_with_odd_characters(server):
    (server.folder / "a #1 %41?.bin").write_bytes(b"odd")
    assert read_bytes(join(server.url, "a #1 %41?.bin")) == b"odd"


def test_credentials_are_used_and_never_shown(server, caplog):
    root = server.url.replace("http://", "http://me:word@") + "?sig=hidden"
    with caplog.at_level(logging.DEBUG, logger="dataio"):
        server.plant("file.bin", 503)
        assert read_bytes(join(root, "file.bin")) == CONTENT
        assert server.requests[-1].query == "sig=hidden"
        assert server.requests[-1].authorization is not None
        server.plant("file.bin", 403, 404, 400, "ftp://me:word@h/x?sig=hidden")
        for _ in range(4):
            with pytest.raises(DataError) as caught:
                read_bytes(join(root, "file.bin"))
            assert server.url in str(caught.value)
            assert not any(word in str(caught.value) for word in ("word", "hidden", "me:"))
    assert "HTTP 503; trying again" in caplog.text
    assert not any(word in caplog.text for word in ("word", "hidden", "me:"))


def test_shown():
    text = "cannot open 'https://u:p@h:1/a/b?x=1&y=2' (see s3://b/c), not /local?file"
    assert shown(text) == "cannot open 'https://h:1/a/b' (see s3://b/c), not /local?file"


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/hostname"])
def test_redirections_to_other_protocols_are_not_followed(server, target):
    server.plant("file.bin", target, always=True)
    with pytest.raises(DataError, match=r"file.bin: cannot be read \("):
        read_bytes(f"{server.url}/file.bin")
    assert server.asked("file.bin") == 1


def test_redirections_within_http_are_followed(server):
    (server.folder / "old").touch()
    server.plant("old", f"{server.url}/file.bin")
    assert read_bytes(f"{server.url}/old") == CONTENT


def test_waits_grow_and_are_fixed():
    waits = [location._wait_seconds("http://h/x", attempt) for attempt in (1, 2, 3)]
    assert waits == [location._wait_seconds("http://h/x", attempt) for attempt in (1, 2, 3)]
    assert all(0.5 <= wait / (0.001 * 2**i) <= 1 for i, wait in enumerate(waits))
    assert waits[0] / 1 != waits[1] / 2


@pytest.mark.parametrize("text", ["x", "0", "-1", "inf", "nan"])
def test_numbers_of_the_environment(monkeypatch, text):
    monkeypatch.setenv("IMG2SHAPE_READ_TIMEOUT_SECONDS", text)
    with pytest.raises(DataError, match=rf"IMG2SHAPE_READ_TIMEOUT_SECONDS={text}: not a positive"):
        number_from("IMG2SHAPE_READ_TIMEOUT_SECONDS", 60)
    monkeypatch.setenv("IMG2SHAPE_READ_TIMEOUT_SECONDS", "")
    assert number_from("IMG2SHAPE_READ_TIMEOUT_SECONDS", 60) == 60
