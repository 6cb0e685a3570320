import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from dataio.checking.soundness import check, repair
from dataio.loading.sources import StreamSource
from dataio.packing.records_to_shards import pack
from dataio.parallel import in_processes, in_threads
from dataio.records import DataError, Record
from dataio.shards.manifest import Manifest, write_manifest
from dataio.shards.opening import load_manifest
from dataio.shards.quarantine import QUARANTINE_NAME, read_quarantine
from dataio.shards.reading import content_member
from tests.dataio.packed import open_loader, packed, records

ROW = 4  # an image; its shard holds others too


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Manifest:
    return packed(tmp_path_factory.mktemp("soundness"))


@pytest.fixture
def manifest(shared, tmp_path) -> Manifest:
    """A copy to damage."""
    return load_manifest(shutil.copytree(shared.root, tmp_path / "set"))


def shard_path(manifest: Manifest, row: int) -> Path:
    return Path(manifest.root) / manifest.shards[manifest.shard_ids[row]].name


def member(manifest: Manifest, row: int, suffix: str):
    return next(m for m in manifest.members[row] if m.suffix == suffix)


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def in_same_shard(manifest: Manifest, row: int) -> list[int]:
    return np.flatnonzero(manifest.shard_ids == manifest.shard_ids[row]).tolist()


def keys_of(manifest: Manifest, rows) -> set[str]:
    return {manifest.keys[row] for row in rows}


# ---- defects: each damages the set and returns the rows that are bad ----------------------------


def flip_a_byte(manifest: Manifest) -> list[int]:
    place = content_member(manifest, ROW)
    at = place.offset + place.size // 2
    path = shard_path(manifest, ROW)
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 1]))
    return [ROW]


def truncate(manifest: Manifest) -> list[int]:
    rows = in_same_shard(manifest, ROW)
    assert len(rows) > 1
    end = max(m.offset + m.size for m in manifest.members[rows[0]])
    path = shard_path(manifest, ROW)
    path.write_bytes(path.read_bytes()[: end + 700])
    return rows[1:]


def delete_shard(manifest: Manifest) -> list[int]:
    shard_path(manifest, ROW).unlink()
    return in_same_shard(manifest, ROW)


def wrong_cls(manifest: Manifest) -> list[int]:
    other = (int(manifest.class_ids[ROW]) + 1) % 3
    overwrite(shard_path(manifest, ROW), member(manifest, ROW, "cls").offset, b"%d" % other)
    return [ROW]


def wrong_json(manifest: Manifest) -> list[int]:
    path, place = shard_path(manifest, ROW), member(manifest, ROW, "json")
    text = path.read_bytes()[place.offset : place.offset + place.size]
    assert text.count(b'"label":"class') == 1
    overwrite(path, place.offset + text.index(b'"label":"class') + 14, b"9")
    return [ROW]


def broken_json(manifest: Manifest) -> list[int]:
    overwrite(shard_path(manifest, ROW), member(manifest, ROW, "json").offset, b"x")
    return [ROW]


def damaged_header(manifest: Manifest) -> list[int]:
    overwrite(shard_path(manifest, ROW), content_member(manifest, ROW).offset - 512, bytes(512))
    return [ROW]


def undecodable(manifest: Manifest) -> list[int]:
    """Junk in place of a picture from the start: every hash is right."""
    place, path = content_member(manifest, ROW), shard_path(manifest, ROW)
    overwrite(path, place.offset, b"j" * place.size)
    return rehashed(manifest, ROW)


def miscounted_views(manifest: Manifest) -> list[int]:
    row = int(manifest.select("shape", "train")[0])
    views = manifest.views.copy()
    views[row] = 4
    write_manifest(dataclasses.replace(manifest, views=views, fingerprint=""))
    return [row]


def rehashed(manifest: Manifest, row: int) -> list[int]:
    place, data = content_member(manifest, row), shard_path(manifest, row).read_bytes()
    hashes, shards = list(manifest.content_sha256), list(manifest.shards)
    content = data[place.offset : place.offset + place.size]
    hashes[row] = hashlib.sha256(content).hexdigest()
    number = int(manifest.shard_ids[row])
    shards[number] = dataclasses.replace(shards[number], sha256=hashlib.sha256(data).hexdigest())
    write_manifest(
        dataclasses.replace(manifest, content_sha256=hashes, shards=tuple(shards), fingerprint="")
    )
    return [row]


DEFECTS: dict[Callable[[Manifest], list[int]], tuple[str, str | None]] = {
    flip_a_byte: ("other content than when it was packed", "its SHA-256 is another"),
    truncate: ("its shard ends before it does", "bytes, not"),
    delete_shard: ("its shard cannot be read: missing", "missing"),
    wrong_cls: (".cls says class", "its SHA-256 is another"),
    wrong_json: (".json says label 'class9', the manifest says", "its SHA-256 is another"),
    broken_json: (".json cannot be parsed", "its SHA-256 is another"),
    damaged_header: ("at its place", "its SHA-256 is another"),
    undecodable: ("no known picture format", None),
    miscounted_views: ("are not 4 square tiles", None),
}


# ---- tests ---------------------------------------------------------------------------------------


def test_a_sound_set(shared):
    done = []
    found = check(shared.root, run=in_threads(2), progress=lambda *at: done.append(at))
    assert found.sound
    assert (found.bad_samples, found.bad_shards, found.repeats, found.lost) == ((), (), (), ())
    assert [r.sha256 for r in found.shards] == [s.sha256 for s in shared.shards]
    assert [total for _, total in done] == [len(shared)] * len(shared.shards)
    assert done[-1][0] == len(shared)
    assert repair(found).samples == ()
    assert not (Path(shared.root) / QUARANTINE_NAME).exists()


@pytest.mark.parametrize("damage", DEFECTS, ids=lambda d: d.__name__)
def test_a_defect_is_found_and_left_out(manifest, damage):
    bad = keys_of(manifest, damage(manifest))
    reason, shard_reason = DEFECTS[damage]
    found = check(manifest.root, run=in_threads(2))
    assert not found.sound
    assert {sample.key for sample in found.bad_samples} == bad
    for sample in found.bad_samples:
        row = manifest.keys.index(sample.key)
        assert reason in sample.reason
        assert (sample.stream, sample.split) == (manifest.streams[row], manifest.splits[row])
        assert sample.shard == manifest.shards[manifest.shard_ids[row]].name
    assert [shard_reason in s.reason for s in found.bad_shards] == [True] * bool(shard_reason)
    assert not (Path(manifest.root) / QUARANTINE_NAME).exists()

    repair(found)
    left = load_manifest(manifest.root)
    assert set(left.keys) == set(manifest.keys) - bad
    assert check(manifest.root, run=in_threads(2)).sound
    assert trained_keys(left, "image") == keys_of(left, left.select("image", "train"))
    assert trained_keys(left, "shape") == keys_of(left, left.select("shape", "train"))


def trained_keys(manifest: Manifest, stream: str) -> set[str]:
    """The samples that a pass of training meets."""
    rows = manifest.select(stream, "train")
    source = StreamSource(manifest, rows, manifest.classes, labelled=True, image_size=16)
    batches = [
        b[stream]
        for _, b in open_loader({stream: source}, batch=6, seed=1, steps=-(-len(rows) // 6))
    ]
    keys = [key for batch in batches for key in batch.keys]
    assert len(keys) == len(rows)
    return set(keys)


def test_a_file_that_grew_is_accepted_by_repair(manifest):
    path = shard_path(manifest, ROW)
    path.write_bytes(path.read_bytes() + bytes(512))
    found = check(manifest.root, run=in_threads(1))
    assert found.bad_samples == ()
    assert len(found.bad_shards) == 1
    quarantine = repair(found)
    assert quarantine.samples == ()
    assert [s.size_bytes for s in quarantine.shards] == [path.stat().st_size]
    assert load_manifest(manifest.root).fingerprint == manifest.fingerprint


def test_repairs_add_up_and_restored_shards_are_welcome(manifest):
    path = shard_path(manifest, ROW)
    intact = path.read_bytes()
    first = keys_of(manifest, flip_a_byte(manifest))
    repair(check(manifest.root, run=in_threads(1)))
    other = int(np.flatnonzero(manifest.shard_ids != manifest.shard_ids[ROW])[0])
    shard_path(manifest, other).unlink()
    second = keys_of(manifest, in_same_shard(manifest, other))
    found = check(manifest.root, run=in_threads(1))
    assert {s.key for s in found.bad_samples} == second
    repair(found)
    assert {s.key for s in read_quarantine(manifest.root).samples} == first | second
    path.write_bytes(intact)
    found = check(manifest.root, run=in_threads(1))
    assert [s.name for s in found.bad_shards] == [path.name]  # not the one that was repaired
    assert repair(found).shards == ()
    assert check(manifest.root, run=in_threads(1)).sound


def test_threads_processes_and_none_find_the_same(manifest):
    truncate(manifest)
    expected = check(manifest.root, run=map)  # pyright: ignore[reportArgumentType]
    for run in (in_threads(3), in_processes(2)):
        found = check(manifest.root, run=run)
        assert (found.shards, found.bad_samples) == (expected.shards, expected.bad_samples)


def test_nothing_good_is_an_error_and_writes_nothing(manifest):
    for shard in manifest.shards:
        (Path(manifest.root) / shard.name).unlink()
    with pytest.raises(DataError, match=r"no good sample \(the first, .*: missing\); copy"):
        check(manifest.root, run=in_threads(1))
    assert not (Path(manifest.root) / QUARANTINE_NAME).exists()


def test_a_lost_split_is_said(manifest):
    for row in manifest.select("shape", "test"):
        shard_path(manifest, row).unlink(missing_ok=True)
    found = check(manifest.root, run=in_threads(1))
    assert found.lost == ("shape/test",)
    repair(found)
    with pytest.raises(DataError, match="no samples of shape/test"):
        load_manifest(manifest.root).select("shape", "test")


def test_a_file_that_may_not_be_read_is_an_error(manifest, monkeypatch):
    import builtins

    def refuse(path, *args, _open=builtins.open, **options):
        if str(path).endswith(".tar"):
            raise PermissionError(13, "Permission denied", path)
        return _open(path, *args, **options)

    monkeypatch.setattr(builtins, "open", refuse)
    with pytest.raises(DataError, match="may not be read"):
        check(manifest.root, run=in_threads(1))


def test_a_remote_set_is_checked_but_not_repaired(manifest):
    """The same findings over the network, a cut, a longer and a missing shard included."""
    cut = truncate(manifest)
    longer = Path(manifest.root) / manifest.shards[5].name
    longer.write_bytes(longer.read_bytes() + b"x")
    missing = np.flatnonzero(manifest.shard_ids == 6).tolist()
    (Path(manifest.root) / manifest.shards[6].name).unlink()
    store = fsspec.filesystem("memory")
    store.put(manifest.root, "/soundness", recursive=True)
    found = check("memory://soundness", run=in_threads(2))
    assert {s.key for s in found.bad_samples} == keys_of(manifest, [*cut, *missing])
    assert len(found.bad_shards) == 3
    assert found.bad_shards[1].reason == (
        f"{manifest.shards[5].size_bytes + 1} bytes, not {manifest.shards[5].size_bytes}"
    )
    with pytest.raises(DataError, match="not a folder"):
        repair(found)


# ---- the same content twice -----------------------------


def pack_leaking(folder: Path) -> Manifest:
    """photo-000 again in test, photo-001 again in train, photo-002 in val by another label, and the
    same bytes as a sketch, which is another stream."""
    plain = list(records(folder / "raw", images=6, shapes=2))
    again = [
        dataclasses.replace(plain[0], key="leak", split="test"),
        dataclasses.replace(plain[1], key="twin"),
        dataclasses.replace(plain[2], key="liar", split="val", label="class0"),
        dataclasses.replace(plain[3], key="drawn", stream="sketch", split="test"),
    ]
    return pack([*plain, *again], folder / "set", dataset="leaking")


def test_leaks_conflicts_and_repeats(tmp_path):
    leaking = pack_leaking(tmp_path)
    found = check(leaking.root, run=in_threads(1))
    assert found.bad_samples == ()
    assert not found.sound
    leaks = {frozenset(keys_of(leaking, same.rows)): same for same in found.leaks}
    assert set(leaks) == {frozenset({"photo-000", "leak"}), frozenset({"photo-002", "liar"})}
    assert leaks[frozenset({"photo-000", "leak"})].splits == ("train", "test")
    assert [same.labels for same in found.conflicts] == [("class0", "class2")]
    assert len(found.repeats) == 3
    assert repair(found).samples == ()  # a leak is for a person to decide
    assert not check(leaking.root, run=in_threads(1)).sound


def test_twins_within_a_split_are_sound(tmp_path):
    plain = list(records(tmp_path / "raw", images=3, shapes=0))
    twin = Record("twin", "image", "train", "class0", image=plain[0].image)
    manifest = pack([*plain, twin], tmp_path / "set", dataset="twins")
    found = check(manifest.root, run=in_threads(1))
    assert found.sound
    assert [keys_of(manifest, same.rows) for same in found.repeats] == [{"photo-000", "twin"}]


# ---- a manifest that contradicts itself -----------------------------


def contradict(manifest: Manifest, name: str, row: int, value: object) -> None:
    column = getattr(manifest, name)
    column = list(column) if isinstance(column, list) else column.copy()
    column[row] = value
    write_manifest(dataclasses.replace(manifest, **{name: column}, fingerprint=""))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("keys", "photo-000", "key 'photo-000' is there 2 times"),
        ("shard_ids", 99, "a shard that is not listed"),
        ("shard_ids", 1, "rows, not"),
        ("splits", "hold", "is of image/hold"),
        ("views", 3, "is of image and has 3 views"),
        ("labels", "class9", "has label 'class9' but the number of"),
        ("members", (), "has 0 members with pixels"),
    ],
)
def test_a_contradictory_manifest_is_refused(manifest, name, value, message):
    row = next(
        r for r in range(22) if manifest.keys[r] != "photo-000" and manifest.shard_ids[r] != 1
    )
    contradict(manifest, name, row, value)
    with pytest.raises(DataError, match="damaged manifest") as caught:
        check(manifest.root, run=in_threads(1))
    assert message in str(caught.value)


def test_overlapping_members_are_refused(manifest):
    first, second = in_same_shard(manifest, ROW)[:2]
    contradict(manifest, "members", second, manifest.members[first])
    with pytest.raises(DataError, match=r"members of .* overlap"):
        check(manifest.root, run=in_threads(1))
