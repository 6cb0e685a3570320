"""A pack that is stopped anywhere, by anything, and called again gives the bytes of one that was
never stopped; what has changed meanwhile is packed again."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import dataio.packing.records_to_shards
import dataio.packing.shard_writer
from dataio.findings import Findings
from dataio.packing.records_to_shards import SKIPPED_NAME, pack
from dataio.parallel import in_threads
from dataio.records import DataError, Record
from dataio.shards.manifest import MANIFEST_NAME
from dataio.shards.opening import load_manifest
from tests.command import ROOT
from tests.dataio.packed import picture, records

RECORDS = 14
SETTINGS: dict = {"dataset": "tiny", "shard_size_bytes": 12_000}


def tiny(raw: Path) -> list[Record]:
    return list(records(raw, images=9, shapes=5, views=2))


def hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of all files, hidden ones too, but not that with the times of the sources."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".inputs")
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[list[Record], dict[str, str]]:
    """Records, and the files of their uninterrupted pack."""
    folder = tmp_path_factory.mktemp("whole")
    found = tiny(folder / "raw")
    pack(found, folder / "set", **SETTINGS)
    files = hashes(folder / "set")
    assert len(files) > 5
    assert sum(name.startswith("image") for name in files) > 2
    return found, files


class Stopped(Exception):
    """Stands for whatever ends a pack."""


def stop_at(number: int, kind: type[BaseException] = Stopped):
    def progress(done: int, total: int) -> None:
        assert total == RECORDS
        if done == number:
            raise kind

    return progress


def counted(monkeypatch) -> list[str]:
    """Keys of all records that are encoded from now on."""
    seen: list[str] = []
    original = dataio.packing.records_to_shards.encode

    def counting(record: Record, **options):
        seen.append(record.key)
        return original(record, **options)

    monkeypatch.setattr(dataio.packing.records_to_shards, "encode", counting)
    return seen


@pytest.mark.parametrize("number", range(1, RECORDS + 1))
def test_interrupted_at_every_sample(made, tmp_path, number):
    found, files = made
    with pytest.raises(KeyboardInterrupt):
        pack(found, tmp_path, progress=stop_at(number, KeyboardInterrupt), **SETTINGS)
    assert not list(tmp_path.glob("*.*"))[1:], "only the hidden folder may be there"
    pack(found, tmp_path, **SETTINGS)
    assert hashes(tmp_path) == files


def test_stopped_after_every_sample_of_one_pack(made, tmp_path):
    found, files = made
    for number in range(1, RECORDS + 1):
        with pytest.raises(Stopped):
            pack(found, tmp_path, progress=stop_at(number), **SETTINGS)
    pack(found, tmp_path, **SETTINGS)
    assert hashes(tmp_path) == files


def test_finished_shards_are_not_made_again(made, tmp_path, monkeypatch):
    found, files = made
    with pytest.raises(Stopped):
        pack(found, tmp_path, progress=stop_at(RECORDS - 1), **SETTINGS)
    noted = [json.loads(p.read_bytes()) for p in (tmp_path / ".packing").glob("*.tar.json")]
    finished = [key for note in noted for key in note["rows"]]
    assert len(finished) > 4
    seen, reported = counted(monkeypatch), []
    pack(found, tmp_path, progress=lambda *counts: reported.append(counts), **SETTINGS)
    assert sorted([*seen, *finished]) == sorted(record.key for record in found)
    assert reported[0] == (len(finished), RECORDS)
    assert reported[1] == (len(finished) + 1, RECORDS)
    assert hashes(tmp_path) == files


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import dataio.packing.records_to_shards, dataio.packing.shard_writer
from dataio.packing.records_to_shards import pack
from dataio.parallel import in_threads
from tests.dataio.packed import records
from tests.dataio.packing.test_pack_resume import SETTINGS, hashes, tiny

folder = Path(sys.argv[1])
found = tiny(folder / "raw")

def in_child(out, fatal_event):
    "Pack in a process that is killed before its event of that number; how many there were if not."
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        events = 0
        def watched(original):
            def call(*args, **options):
                nonlocal events
                events += 1
                if events == fatal_event:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*args, **options)
            return call
        os.fsync = lambda _: None  # a kill loses nothing that was written
        for name in ("replace", "fsync", "unlink", "rmdir", "mkdir"):
            setattr(os, name, watched(getattr(os, name)))
        file = dataio.packing.shard_writer._HashingFile
        file.write = watched(file.write)
        pack(found, out, run=in_threads(1), **SETTINGS)
        os.write(writer, str(events).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    said = os.read(reader, 20)
    os.close(reader)
    assert bool(said) == (status == 0), status
    return int(said) if said else None

pack(found, folder / "whole", **SETTINGS)  # children inherit what is loaded at first use
expected = hashes(folder / "whole")
total = in_child(folder / "counted", -1)
assert total > 60, total
points = [*range(1, total - 15, 4), *range(total - 15, total + 1)]
for point in points:
    out = folder / "once"
    assert in_child(out, point) is None, point
    assert in_child(out, -1), point
    assert hashes(out) == expected, (point, set(hashes(out)) ^ set(expected))
    shutil.rmtree(out)
kills, out = 0, folder / "often"
while in_child(out, 12 + kills) is None:
    kills += 1
assert hashes(out) == expected
print(len(points), kills)
"""


def test_killed_anywhere(tmp_path):
    """Processes that are killed between any two steps that change the disk, once and repeatedly."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    points, kills = map(int, ended.stdout.split())
    assert points > 25
    assert kills > 3


def half(found: list[Record], out: Path, **options: object) -> None:
    with pytest.raises(Stopped):
        pack(found, out, progress=stop_at(RECORDS - 1), **{**SETTINGS, **options})
    assert len(list((out / ".packing").glob("*.tar.json"))) > 2


def test_a_changed_file_is_not_continued_over(tmp_path, caplog):
    found = tiny(tmp_path / "raw")
    half(found, tmp_path / "set")
    image = next(r.image for r in found if r.key == "photo-004")
    assert image is not None
    Image.fromarray(picture(77, 30)).save(image)
    pack(found, tmp_path / "set", **SETTINGS)
    pack(found, tmp_path / "whole", **SETTINGS)
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")
    assert "its source files have changed" in caplog.text


def test_a_file_of_the_same_size_and_name_counts_as_changed_by_its_time(tmp_path):
    found = tiny(tmp_path / "raw")
    half(found, tmp_path / "set")
    image = next(r.image for r in found if r.key == "photo-004")
    assert image is not None
    data = bytearray(image.read_bytes())
    data[-200] ^= 0  # the same bytes at another time: packed again, for nothing, but never wrong
    image.write_bytes(data)
    os.utime(image, ns=(1, 1))
    pack(found, tmp_path / "set", **SETTINGS)
    pack(found, tmp_path / "whole", **SETTINGS)
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")


def changed(found: list[Record], what: str) -> list[Record]:
    if what == "fewer":
        return found[1:]
    if what == "label":
        return [relabelled(record, {"class0": "class9"}) for record in found]
    return [relabelled(r, {"class0": "class1", "class1": "class0"}) for r in found]


def relabelled(record: Record, names: dict[str, str]) -> Record:
    assert record.label is not None
    return replace(record, label=names.get(record.label, record.label))


@pytest.mark.parametrize("what", ["fewer", "label", "swapped"])
def test_changed_records_are_not_continued_over(made, tmp_path, what):
    found, _ = made
    half(found, tmp_path / "set")
    other = changed(found, what)
    pack(other, tmp_path / "set", **SETTINGS)
    pack(other, tmp_path / "whole", **SETTINGS)
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"image_size": 16}, {"views": "npy"}, {"shard_size_bytes": 20_000},
     {"metadata": {"render": "other"}}],
    ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_other_options_start_over_and_say_so(made, tmp_path, options, caplog):
    found, files = made
    half(found, tmp_path / "set")
    pack(found, tmp_path / "set", **{**SETTINGS, **options})
    assert "had other options, classes or versions; starting over" in caplog.text
    pack(found, tmp_path / "whole", **{**SETTINGS, **options})
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole") != files


@pytest.mark.parametrize("damage", ["shard", "note", "cut shard", "no shard"])
def test_a_damaged_finished_shard_is_made_again(made, tmp_path, damage, caplog):
    found, files = made
    half(found, tmp_path)
    shard = tmp_path / ".packing" / "image-train-000001.tar"
    if damage == "shard":
        data = bytearray(shard.read_bytes())
        data[700] ^= 1
        shard.write_bytes(data)
    elif damage == "cut shard":
        shard.write_bytes(shard.read_bytes()[:-512])
    elif damage == "no shard":
        shard.unlink()
    else:
        shard.with_name(shard.name + ".json").write_text('{"shard": {}}')
    pack(found, tmp_path, **SETTINGS)
    assert hashes(tmp_path) == files
    assert ("image-train-000001.tar: damaged" in caplog.text) is (damage != "note")


def test_a_moved_source_folder_is_continued(made, tmp_path, monkeypatch):
    """Time, size and name of the files decide, not where they lie."""
    found, files = made
    half(found, tmp_path / "set")
    raw = next(r.image for r in found if r.image).parent
    shutil.copytree(raw, tmp_path / "moved")
    moved = [relocated(record, tmp_path / "moved") for record in found]
    seen = counted(monkeypatch)
    pack(moved, tmp_path / "set", **SETTINGS)
    assert len(seen) < RECORDS / 2
    assert hashes(tmp_path / "set") == files


def relocated(record: Record, folder: Path) -> Record:
    views = tuple(folder / path.name for path in record.views) if record.views else None
    return replace(record, image=record.image and folder / record.image.name, views=views)


def test_two_packs_at_once_are_refused(made, tmp_path):
    found, files = made

    def second(done: int, total: int) -> None:
        if done == 5:
            with pytest.raises(DataError, match=r"another process is packing.*another folder"):
                pack(found, tmp_path, **SETTINGS)

    pack(found, tmp_path, progress=second, **SETTINGS)
    assert hashes(tmp_path) == files


def test_a_file_system_without_locks(made, tmp_path, monkeypatch, caplog):
    def no_locks(*_args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    pack(made[0], tmp_path, **SETTINGS)
    assert hashes(tmp_path) == made[1]
    assert "cannot be locked (No locks available)" in caplog.text


def test_a_full_disk_keeps_what_is_finished(made, tmp_path, monkeypatch):
    found, files = made
    file = dataio.packing.shard_writer._HashingFile
    original, written = file.write, 0

    def full(self, data):
        nonlocal written
        written += len(data)
        if written > 60_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(file, "write", full)
        with pytest.raises(OSError, match="No space left"):
            pack(found, tmp_path, **SETTINGS)
    staged = {path.name for path in (tmp_path / ".packing").iterdir()}
    assert {"image-train-000000.tar", "image-train-000000.tar.json"} <= staged
    assert len([name for name in staged if name.endswith(".tar")]) == len(
        [name for name in staged if name.endswith(".tar.json")]
    ), "the unfinished shard frees its space"
    seen = counted(monkeypatch)
    pack(found, tmp_path, **SETTINGS)
    assert len(seen) < RECORDS
    assert hashes(tmp_path) == files


def test_a_broken_record_keeps_what_is_finished_and_its_repair_continues(
    tmp_path, monkeypatch, caplog
):
    found = tiny(tmp_path / "raw")
    pack(found, tmp_path / "whole", **SETTINGS)
    last = load_manifest(tmp_path / "whole").keys[-1]
    views = next(record.views for record in found if record.key == last)
    assert views is not None
    good = views[0].read_bytes()
    views[0].write_bytes(good[:-60])
    with pytest.raises(DataError, match=views[0].name):
        pack(found, tmp_path / "set", **SETTINGS)
    views[0].write_bytes(good)
    seen = counted(monkeypatch)
    pack(found, tmp_path / "set", **SETTINGS)
    assert len(seen) < RECORDS
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")


def broken(found: list[Record]) -> Iterator[str]:
    """Break three files; their keys."""
    for record in found:
        if record.key in ("photo-003", "photo-006", "shape-002"):
            path = record.image or (record.views or ())[1]
            path.write_bytes(path.read_bytes()[:-90])
            yield record.key


def lenient() -> Findings:
    findings = Findings("tiny", lenient=True)
    findings.defect("list.txt line 3", "no such file: x.png")
    return findings


def test_lenient_leaves_out_and_lists(tmp_path):
    found = tiny(tmp_path / "raw")
    bad = set(broken(found))
    findings = lenient()
    manifest = pack(found, tmp_path / "set", findings=findings, **SETTINGS)
    assert set(manifest.keys) == {record.key for record in found} - bad
    assert manifest.metadata["skipped"] == 4 == len(findings.skipped)
    assert manifest.metadata["counts"]["shape/test"] == {"class0": 1}
    listed = [json.loads(s) for s in (tmp_path / "set" / SKIPPED_NAME).read_text().splitlines()]
    assert listed[0] == {
        "key": None, "source_path": "list.txt line 3", "reason": "no such file: x.png"
    }  # fmt: skip
    assert {one["key"] for one in listed[1:]} == bad
    assert {one["source_path"] for one in listed[1:]} == {"photo3.jpg", "photo6.png", "shape2"}
    assert all("cannot decode the picture" in one["reason"] for one in listed[1:])
    assert str(tmp_path) not in (tmp_path / "set" / SKIPPED_NAME).read_text()
    again = pack(found, tmp_path / "set", findings=lenient(), **SETTINGS)
    assert again.fingerprint == manifest.fingerprint


@pytest.mark.parametrize("number", [4, 8, 11, 13])
def test_what_is_left_out_is_the_same_after_an_interruption(tmp_path, number):
    found = tiny(tmp_path / "raw")
    list(broken(found))
    whole, resumed = lenient(), lenient()
    pack(found, tmp_path / "whole", findings=whole, **SETTINGS)
    with pytest.raises(Stopped):
        pack(
            found, tmp_path / "set", findings=lenient(), progress=stop_at(number), **SETTINGS
        )  # fmt: skip
    pack(found, tmp_path / "set", findings=resumed, run=in_threads(1), **SETTINGS)
    assert hashes(tmp_path / "set") == hashes(tmp_path / "whole")
    assert resumed.skipped == whole.skipped


def test_what_leniency_left_out_is_an_error_without_it(tmp_path):
    found = tiny(tmp_path / "raw")
    list(broken(found))
    with pytest.raises(Stopped):
        pack(found, tmp_path / "set", findings=lenient(), progress=stop_at(13), **SETTINGS)
    with pytest.raises(DataError, match="cannot decode the picture"):
        pack(found, tmp_path / "set", **SETTINGS)
    with pytest.raises(DataError, match="cannot decode the picture"):
        pack(found, tmp_path / "set", findings=Findings("tiny"), **SETTINGS)


def test_a_failing_disk_is_not_a_bad_sample(made, tmp_path, monkeypatch):
    found, files = made
    original = Path.read_bytes

    def failing(self: Path) -> bytes:
        if self.name == "photo4.png":
            raise OSError(errno.EIO, "Input/output error", str(self))
        return original(self)

    findings = Findings("tiny", lenient=True)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", failing)
        with pytest.raises((DataError, OSError), match="Input/output error"):
            pack(found, tmp_path, findings=findings, **SETTINGS)
    assert findings.skipped == []
    pack(found, tmp_path, findings=findings, **SETTINGS)
    assert hashes(tmp_path) == files


def test_a_missing_file_is_a_bad_sample(tmp_path):
    found = tiny(tmp_path / "raw")
    image = next(r.image for r in found if r.key == "photo-004")
    assert image is not None
    image.unlink()
    findings = Findings("tiny", lenient=True)
    pack(found, tmp_path / "set", findings=findings, **SETTINGS)
    assert [one.item for one in findings.skipped] == ["photo4.png"]


def test_nothing_left_is_an_error(tmp_path):
    found = [r for r in tiny(tmp_path / "raw") if r.key == "photo-003"]
    list(broken(found))
    with pytest.raises(DataError, match=r"none of 1 samples can be used; the first: photo3\.jpg"):
        pack(found, tmp_path / "set", findings=Findings("tiny", lenient=True), **SETTINGS)
    assert not (tmp_path / "set" / MANIFEST_NAME).exists()


def test_warnings_are_kept_and_no_place(made, tmp_path, caplog):
    found, _ = made
    caplog.set_level(logging.ERROR)
    findings = Findings("tiny")
    findings.expect(False, "14 samples, published are 15")
    manifest = pack(
        found, tmp_path, findings=findings, metadata={"terms": "none", "adapter": "x"}, **SETTINGS
    )
    held = load_manifest(tmp_path).metadata
    assert held == manifest.metadata
    assert held["warnings"] == ["14 samples, published are 15"]
    assert held["terms"] == "none"
    assert held["counts"]["image/train"] == {"class0": 3, "class1": 3, "class2": 3}
    assert str(tmp_path.parent) not in json.dumps(held)


def test_a_finished_set_is_not_made_again_to_be_compared(made, tmp_path, monkeypatch):
    found, files = made
    pack(found, tmp_path, **SETTINGS)
    seen = counted(monkeypatch)
    pack(found, tmp_path, **SETTINGS)
    assert seen == []
    assert hashes(tmp_path) == files


def test_a_finished_set_still_knows_what_it_left_out(tmp_path):
    found = tiny(tmp_path / "raw")
    assert found[0].image is not None
    found[0].image.write_bytes(b"no picture")
    for _ in range(2):
        findings = Findings("tiny", lenient=True)
        pack(found, tmp_path / "set", findings=findings, **SETTINGS)
        assert [one.item for one in findings.skipped] == ["photo0.png"]


def test_an_existing_set_is_compared_in_full(tmp_path):
    found = tiny(tmp_path / "raw")
    tmp_path = tmp_path / "set"
    pack(found, tmp_path, **SETTINGS)
    files = hashes(tmp_path)
    assert found[0].image is not None
    os.utime(found[0].image)
    half_again = {**SETTINGS, "progress": stop_at(RECORDS - 1)}
    with pytest.raises(Stopped):
        pack(found, tmp_path, **half_again)
    pack(found, tmp_path, **SETTINGS)
    assert hashes(tmp_path) == files
    with pytest.raises(DataError, match="another version"):
        pack(found[1:], tmp_path, **SETTINGS)
    assert hashes(tmp_path) == files
