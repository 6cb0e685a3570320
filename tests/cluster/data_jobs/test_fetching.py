"""Fetching the package of furniture, with programs that stand in for apt-get and dpkg."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cluster.data_jobs import fetch_furniture
from dataio.records import DataError
from tests.cluster.apt import DOWNLOADS, UNPACKS, put_programs


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Callable[..., None]:
    """Writes programs into a folder that comes first on PATH; at first, those that succeed."""
    folder = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    put_programs(folder, apt_get=DOWNLOADS, dpkg=UNPACKS)
    return partial(put_programs, folder)


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data" / "furniture"


def refused(folder: Path) -> str:
    """The message of a fetch that fails, after which nothing is left."""
    with pytest.raises(DataError) as caught:
        fetch_furniture(folder)
    assert not folder.exists()
    assert not folder.parent.exists() or not list(folder.parent.iterdir())
    return str(caught.value)


def test_the_package_is_unpacked_once(programs, folder):
    assert fetch_furniture(folder) == folder
    held = folder / "usr/share/sweethome3d/furniture/Lamps.sh3f"
    assert held.read_text() == "whole\n"
    assert list(folder.parent.iterdir()) == [folder]  # neither package nor temporary files
    programs(apt_get="exit 1")
    assert fetch_furniture(folder) == folder  # nothing is called


def test_an_empty_folder_is_filled_and_a_full_one_is_left_alone(programs, folder):
    folder.mkdir(parents=True)
    fetch_furniture(folder)
    other = folder.parent / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="mine: holds no libraries of sweethome3d-furniture"):
        fetch_furniture(other)
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("scripts", "told"),
    [
        (
            {"apt_get": "echo 'E: Unable to locate package sweethome3d-furniture' >&2; exit 100"},
            ["Unable to locate package", "`apt-get update` as root", "universe"],
        ),
        (
            {
                "apt_get": "echo half > furniture_1_all.deb; echo 'W: slow' >&2; "
                "echo 'E: Failed to fetch http://there/x.deb  Connection timed out' >&2; exit 100"
            },
            ["apt-get download sweethome3d-furniture: Failed to fetch", "timed out", "network"],
        ),
        ({"apt_get": "echo half > furniture_1_all.deb; kill -9 $$"}, ["apt-get", "exit code -9"]),
        ({"apt_get": "exit 0"}, ["left no package"]),
        (
            {"dpkg": f"{UNPACKS}; echo 'dpkg-deb: error: unexpected end of file' >&2; exit 2"},
            ["dpkg -x furniture_1_all.deb", "unexpected end of file"],
        ),
        ({"dpkg": 'mkdir -p "$3/usr"'}, ["holds no usr/share/sweethome3d"]),
    ],
)
def test_a_fetch_that_fails_says_why_and_leaves_nothing(programs, folder, scripts, told):
    programs(**scripts)
    message = refused(folder)
    assert all(word in message for word in told), message
    programs(apt_get=DOWNLOADS, dpkg=UNPACKS)
    fetch_furniture(folder)  # the next call begins anew


@pytest.mark.parametrize("absent", ["apt-get", "dpkg"])
def test_other_systems_are_told_where_libraries_are(programs, folder, monkeypatch, absent):
    own = Path(os.environ["PATH"].split(":")[0])
    (own / absent).unlink()
    monkeypatch.setenv("PATH", str(own))
    message = refused(folder)
    assert f"this system has no {absent};" in message
    assert "make real LIBRARY=FILE_OR_FOLDER" in message
    assert "sweethome3d.com" in message
    assert "packages.debian.org/sweethome3d-furniture" in message
    assert not folder.parent.exists()


def test_ctrl_c_leaves_nothing(programs, folder):
    programs(apt_get="echo half > furniture_1_all.deb; kill -INT $PPID; exec sleep 60")
    with pytest.raises(KeyboardInterrupt):
        fetch_furniture(folder)
    assert list(folder.parent.iterdir()) == []


def test_what_a_kill_has_left_is_removed(programs, folder):
    left = folder.parent / ".furniture.part"
    (left / "unpacked").mkdir(parents=True)
    (left / "other_1_all.deb").write_text("half")
    fetch_furniture(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_two_processes_do_not_fetch_into_one_folder(programs, folder):
    part = folder.parent / ".furniture.part"
    part.mkdir(parents=True)
    (part / "furniture_1_all.deb").write_text("of the other process")
    handle = os.open(part, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is fetching"):
            fetch_furniture(folder)
        assert (part / "furniture_1_all.deb").exists()
    finally:
        os.close(handle)
