"""A folder of rendered views: whole shapes only, continued, quarantined, the same to the byte."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from dataio.meshes.reading import load_mesh
from dataio.meshes.rendering import described, preset, render_views
from dataio.meshes.views_folder import QUARANTINE_NAME, Rendered, open_rendered, render_records
from dataio.parallel import in_processes, in_threads
from dataio.records import DataError, Record

SPEC = preset("mvcnn_v1", size=16, views=3)


def shape(folder: Path, name: str, mesh: trimesh.Trimesh | str) -> Record:
    """A record of a mesh, or of a file with this text."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.off"
    if isinstance(mesh, str):
        path.write_text(mesh)
    else:
        mesh.export(path)
    return Record(f"toy-train-{name}", "shape", "train", name, mesh=path, source_path=path.name)


@pytest.fixture
def shapes(tmp_path) -> list[Record]:
    sizes = {"cube": (1, 1, 1), "plank": (3, 1, 0.2), "rod": (0.2, 0.2, 2), "slab": (2, 2, 0.5)}
    raw = tmp_path / "raw"
    return [shape(raw, name, trimesh.creation.box(size)) for name, size in sizes.items()]


def rendered(records: Iterable[Record], out: Path, **changes) -> Rendered:
    return render_records(records, out, **{"spec": SPEC, "run": map, **changes})


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    files = (Path(top) / name for top, _, names in os.walk(folder) for name in names)
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def interrupted(after: int):
    """A progress callback that ends the job."""

    def progress(done: int, total: int) -> None:
        if done == after:
            raise KeyboardInterrupt

    return progress


def test_views_are_those_of_the_renderer_in_ring_order(tmp_path, shapes):
    lying = replace(shapes[2], up_axis="+y")
    result = rendered([*shapes[:2], lying], tmp_path / "out")
    assert (result.made, result.unchanged, result.quarantine) == (3, 0, {})
    for record in (shapes[0], lying):
        files = result.files(record.key, source=record.source_path)
        assert files is not None
        assert [file.name for file in files] == [f"{record.key}_{k:03d}.png" for k in (1, 2, 3)]
        expected = render_views(load_mesh(record.mesh), replace(SPEC, up_axis=record.up_axis))
        assert (np.stack([np.asarray(Image.open(file)) for file in files]) == expected).all()


def test_a_folder_is_opened_as_it_was_made(tmp_path, shapes):
    made = rendered(shapes, tmp_path / "out")
    opened = open_rendered(tmp_path / "out")
    assert opened.spec_json == made.spec_json
    assert opened.spec_json["digest"] == described(SPEC, opened.spec_json["up_axis"])["digest"]
    assert {one["axis"] for one in opened.spec_json["up_axis"].values()} == {"+z"}
    assert opened.spec_json["spec"]["elevation_degrees"] == 30
    assert "up_axis" not in opened.spec_json["spec"]
    assert {"embreex", "trimesh"} <= opened.spec_json["versions"].keys()
    key, source = shapes[0].key, shapes[0].source_path
    assert opened.files(key, source=source) == made.files(key, source=source)
    assert opened.files("never-seen", source="x") is None
    assert opened.reason("never-seen") is None
    with pytest.raises(DataError, match=r"holds views of 'cube\.off', not of 'other\.off'; render"):
        opened.files(key, source="other.off")


def test_bytes_depend_on_neither_order_nor_workers_nor_place(tmp_path, shapes):
    bad = shape(tmp_path / "raw", "bad", "OFF 0 0 0\n")
    expected = content(rendered([*shapes, bad], tmp_path / "a").folder)
    for name, run in (("b", in_threads(3)), ("c", in_processes(2))):
        made = rendered([bad, *reversed(shapes)], tmp_path / name, run=run)
        assert content(made.folder) == expected
    os.rename(tmp_path / "raw", tmp_path / "moved")
    moved = [replace(r, mesh=tmp_path / "moved" / r.mesh.name) for r in [*shapes, bad] if r.mesh]
    assert content(rendered(moved, tmp_path / "d").folder) == expected


@pytest.mark.ray
def test_ray_tasks_give_the_same_bytes(tmp_path, shapes, ray_cluster):
    from cluster.data_jobs.parallel import ray_tasks

    records = [*shapes, shape(tmp_path / "raw", "bad", "OFF 0 0 0\n")]
    expected = content(rendered(records, tmp_path / "a").folder)
    made = rendered(records, tmp_path / "b", run=ray_tasks(2, chunk=2))
    assert content(made.folder) == expected


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_job_is_continued_to_the_same_bytes(tmp_path, shapes, after):
    records = [shapes[0], shape(tmp_path / "raw", "bad", "OFF 0 0 0\n"), *shapes[1:]]
    expected = content(rendered(records, tmp_path / "whole").folder)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        rendered(records, out, progress=interrupted(after))
    assert not (out / QUARANTINE_NAME).exists()
    partial = content(out)
    assert partial.items() < expected.items()  # whole shapes, and nothing else
    result = rendered(records, out)
    assert result.unchanged == after - (after > 1)
    assert content(out) == expected


@pytest.mark.parametrize("moment", ["picture", "note", "rename", "replace"])
def test_a_kill_inside_a_shape_leaves_it_whole_or_absent(tmp_path, shapes, monkeypatch, moment):
    """`replace` is a shape whose mesh changed, ended between taking the old views away and putting
    the new ones there."""
    out, expected = tmp_path / "out", content(rendered(shapes, tmp_path / "whole").folder)
    if moment == "replace":
        old = shape(tmp_path / "old", "cube", trimesh.creation.icosphere(1))
        rendered([replace(old, source_path="cube.off")], out)
    target, name = {
        "picture": (Path, "write_bytes"),
        "note": (Path, "write_text"),
        "rename": (os, "rename"),
        "replace": (os, "rename"),
    }[moment]
    original, calls = getattr(target, name), []

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2 or moment in ("note", "rename"):
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(target, name, dying)
        with pytest.raises(KeyboardInterrupt):
            rendered(shapes, out)
    assert open_rendered(out).files(shapes[0].key, source="cube.off") is None
    assert rendered(shapes, out).made == len(shapes)
    assert content(out) == expected


def test_only_changed_shapes_are_rendered_again(tmp_path, shapes):
    out = tmp_path / "out"
    rendered(shapes, out)
    before = content(out)
    assert rendered(shapes, out).made == 0
    assert content(out) == before

    text = shapes[0].mesh.read_text()
    shapes[0].mesh.write_text(text.replace("0.5", "0.7", 1))  # the same size
    changed = [*shapes[:3], replace(shapes[3], up_axis="+y")]
    result = rendered(changed, out)
    assert (result.made, result.unchanged) == (2, 2)
    fresh = rendered(changed, tmp_path / "fresh")
    assert content(out) == content(fresh.folder) != before


def test_a_view_lost_in_a_power_failure_is_made_again(tmp_path, shapes):
    made = rendered(shapes, tmp_path / "out")
    before = content(made.folder)
    files = made.files(shapes[1].key, source=shapes[1].source_path)
    assert files is not None
    files[1].write_bytes(b"")
    files[2].unlink()
    assert rendered(shapes, tmp_path / "out").made == 1
    assert content(made.folder) == before


BAD = {
    "empty": ("OFF 0 0 0\n", "empty.off: the mesh has no faces"),
    "nan": ("OFF 3 1 0\n0 0 0\n1 nan 0\n0 1 0\n3 0 1 2\n", "nan.off: a vertex is NaN"),
    "cut": ("OFF 3 1 0\n0 0 0\n1 0 0\n", "cut.off: header promises 3 vertices"),
    "point": ("OFF 3 1 0\n1 1 1\n1 1 1\n1 1 1\n3 0 1 2\n", "zero extent"),
    "needle": ("OFF 3 1 0\n0 0 0\n1 0 0\n2 0 0\n3 0 1 2\n", "view 001: nothing visible"),
    "giant": ("OFF 3 1 0\n0 0 0\n1e300 0 0\n0 1e300 0\n3 0 1 2\n", "nothing visible"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_bad_meshes_are_quarantined_with_the_reason_and_stop_nothing(tmp_path, shapes):
    raw = tmp_path / "raw"
    bad = [shape(raw, name, text) for name, (text, _) in BAD.items()]
    gone = replace(shapes[3], mesh=raw / "gone.off", source_path="gone.off")
    records = [gone, *bad[::-1], *shapes[:3]]
    result = rendered(records, tmp_path / "out")
    assert (result.made, len(result.quarantine)) == (3, len(BAD) + 1)
    for name, (_, reason) in BAD.items():
        found = result.reason(f"toy-train-{name}")
        assert found is not None
        assert reason in found
        assert str(tmp_path) not in found  # the file is named as the data set names it
        assert result.files(f"toy-train-{name}", source=f"{name}.off") is None
    assert "gone.off: cannot read (No such file" in str(result.reason(gone.key))
    lines = (tmp_path / "out" / QUARANTINE_NAME).read_text().splitlines()
    listed = [json.loads(line) for line in lines]
    assert [one["key"] for one in listed] == sorted(one["key"] for one in listed)
    assert listed[0].keys() == {"key", "source_path", "reason"}
    assert open_rendered(tmp_path / "out").quarantine == result.quarantine


def test_non_manifold_meshes_are_rendered(tmp_path):
    text = "OFF 5 4 0\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n0 -1 0\n3 0 1 2\n3 1 0 3\n3 0 1 4\n3 2 2 2\n"
    result = rendered([shape(tmp_path, "fan", text)], tmp_path / "out")
    assert (result.made, result.quarantine) == (1, {})


def test_a_repaired_mesh_leaves_the_quarantine_and_a_broken_one_loses_its_views(tmp_path, shapes):
    out, cube = tmp_path / "out", shapes[0]
    sound = cube.mesh.read_text()
    rendered(shapes, out)
    cube.mesh.write_text("OFF 0 0 0\n")
    result = rendered(shapes, out)
    assert result.quarantine.keys() == {cube.key}
    assert result.files(cube.key, source=cube.source_path) is None
    cube.mesh.write_text(sound)
    result = rendered(shapes, out)
    assert (result.made, result.quarantine) == (1, {})
    assert (out / QUARANTINE_NAME).read_text() == ""


def test_part_of_a_data_set_keeps_the_quarantine_of_the_rest(tmp_path, shapes):
    bad = [shape(tmp_path / "raw", name, "OFF 0 0 0\n") for name in ("y", "x")]
    rendered([shapes[0], bad[0]], tmp_path / "out")
    result = rendered([shapes[1], bad[1]], tmp_path / "out")
    assert list(result.quarantine) == ["toy-train-x", "toy-train-y"]
    assert result.files(shapes[0].key, source=shapes[0].source_path) is not None


def test_all_bad_is_an_error_that_names_the_list(tmp_path):
    bad = [shape(tmp_path / "raw", name, "OFF 0 0 0\n") for name in ("b", "a")]
    with pytest.raises(DataError) as error:
        rendered(bad, tmp_path / "out")
    assert "none of 2 meshes could be rendered, see quarantine.jsonl there" in str(error.value)
    assert "the first: b.off: the mesh has no faces" in str(error.value)
    assert len(open_rendered(tmp_path / "out").quarantine) == 2


def test_another_look_is_refused_by_field(tmp_path, shapes):
    out = tmp_path / "out"
    rendered(shapes[:1], out)
    before = content(out)
    with pytest.raises(DataError) as error:
        rendered(shapes, out, spec=replace(SPEC, size=32, shading="phong"))
    assert "holds views with size=16 (wanted 32), shading='flat' (wanted 'phong')" in str(
        error.value
    )
    assert content(out) == before
    assert rendered(shapes, out, spec=replace(SPEC, name="mine", up_axis="+y")).unchanged == 1


def test_wrong_input_is_refused_before_anything_is_written(tmp_path, shapes):
    picture = Record("photo", "image", "train", "cube", image=tmp_path / "a.png")
    with pytest.raises(DataError, match="no meshes to render; pack this data set as it is"):
        rendered([picture], tmp_path / "out")
    with pytest.raises(DataError, match=r"key 'toy-train-cube' is used twice: by cube\.off and by"):
        rendered([shapes[0], shapes[1], shapes[0]], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert rendered([picture, shapes[0]], tmp_path / "out").made == 1


def test_folders_that_are_not_ours_or_damaged_are_refused(tmp_path, shapes):
    (tmp_path / "mine" / "views").mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds views/ and no render\.json; choose another"):
        rendered(shapes, tmp_path / "mine")
    with pytest.raises(DataError, match=r"no render\.json; make the views with `img2shape data r"):
        open_rendered(tmp_path / "mine")
    for text in ("{", "[]", '{"spec": 1, "digest": ""}'):
        (tmp_path / "mine" / "render.json").write_text(text)
        with pytest.raises(DataError, match=r"render\.json: not readable .*; delete the folder"):
            open_rendered(tmp_path / "mine")
    rendered(shapes, tmp_path / "out")
    (tmp_path / "out" / QUARANTINE_NAME).write_text('{"key": "a"}\n')
    with pytest.raises(DataError, match=r"quarantine\.jsonl: not readable .*; delete it"):
        open_rendered(tmp_path / "out")


def test_two_jobs_do_not_render_into_one_folder(tmp_path, shapes):
    out = tmp_path / "out"
    out.mkdir()
    folder = os.open(out, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    with pytest.raises(DataError, match="another process renders into this folder; wait for it"):
        rendered(shapes, out)
    os.close(folder)
    assert rendered(shapes, out).made == 4


def test_a_full_disk_ends_the_job_and_quarantines_nothing(tmp_path, shapes, monkeypatch):
    def full(*_args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            rendered(shapes, tmp_path / "out")
    assert open_rendered(tmp_path / "out").quarantine == {}
    assert rendered(shapes, tmp_path / "out").made == 4


def test_progress_counts_every_shape(tmp_path, shapes):
    seen: list[tuple[int, int]] = []
    rendered(
        [*shapes, shape(tmp_path / "raw", "bad", "")],
        tmp_path / "out",
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(k, 5) for k in range(1, 6)]


def test_another_rotation_is_rendered_again_and_older_notes_know_none(tmp_path, shapes):
    out = tmp_path / "out"
    rendered(shapes, out)
    for note in out.rglob("shape.json"):
        said = json.loads(note.read_text())
        assert said.pop("rotation") is None
        note.write_text(json.dumps(said))
    assert rendered(shapes, out).made == 0
    turned = [*shapes[:3], replace(shapes[3], rotation=(0, 1, 0, 0, 0, 1, 1, 0, 0))]
    assert rendered(turned, out).made == 1
    assert rendered(turned, out).made == 0
    assert rendered(shapes, out).made == 1


def test_the_digest_tells_the_up_axis(tmp_path, shapes):
    standing = rendered(shapes, tmp_path / "a").spec_json
    turned = [replace(one, up_axis="+y", up_because="given") for one in shapes]
    lying = rendered(turned, tmp_path / "b").spec_json
    assert standing["spec"] == lying["spec"]
    assert standing["digest"] != lying["digest"]
    assert {(x["axis"], x["because"]) for x in lying["up_axis"].values()} == {("+y", "given")}
    assert described(SPEC)["digest"] == SPEC.digest
    # The same folder, turned: rendered again, and told in render.json.
    assert rendered(turned, tmp_path / "a").spec_json == lying
    assert open_rendered(tmp_path / "a").spec_json == lying
