"""Files that are written whole or not at all."""

import errno
import os

import pytest

from dataio.atomic import write_whole


def test_a_full_disk_is_told_with_the_name_and_leaves_the_old_file(tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "facts.json"
    write_whole(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_whole(path, b"new")
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["facts.json"]


def test_a_file_that_need_not_be_durable_does_not_wait_for_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: pytest.fail("waited for the disk"))
    write_whole(tmp_path / "facts.json", b"new", durable=False)
    assert (tmp_path / "facts.json").read_bytes() == b"new"


def test_the_only_writer_of_a_file_writes_over_what_a_killed_one_has_left(tmp_path):
    (tmp_path / ".facts.json.tmp").write_bytes(b"half")
    write_whole(tmp_path / "facts.json", b"new", one_writer=True)
    assert os.listdir(tmp_path) == ["facts.json"]
