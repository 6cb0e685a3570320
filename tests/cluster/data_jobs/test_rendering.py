"""`img2shape data render`: options, the adapter, and what the user is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trimesh
from PIL import Image
from pydantic import Field

from cluster.data_jobs import rendering
from cluster.data_jobs.rendering import read_dataset, render_data, view_spec, with_up_axis
from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.findings import Findings
from dataio.meshes.views_folder import open_rendered
from dataio.records import DataError, Record
from dataio.shards import load_manifest
from tests.command import call


class Options(AdapterOptions):
    only: str | None = Field(default=None, description="Name of one mesh.")


def toy_records(root: Path, options: Options, findings: Findings) -> list[Record]:
    """Every .off file; a .txt beside them is a defect."""
    for stray in sorted(root.glob("*.txt")):
        findings.defect(stray.name, f"{stray.name} is no mesh", remedy="remove it")
    files = sorted(root.glob("*.off"))
    findings.expect(len(files) == 3, f"{len(files)} meshes, published are 3")
    name = options.name or "toy"
    return [
        Record(f"{name}-{f.stem}", "shape", "test", "box", mesh=f, source_path=f.name)
        for f in files
        if options.only in (None, f.stem)
    ]


TOY = Adapter("toy", "three boxes", "<name>.off", "free", Options, toy_records)


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A data set of three meshes, known to the program as `toy`."""
    monkeypatch.setattr(rendering, "adapter", lambda name: TOY)
    folder = tmp_path / "raw data"
    folder.mkdir()
    for name, size in {"cube": (1, 1, 1), "plank": (3, 1, 0.2), "rod": (0.2, 0.2, 2)}.items():
        trimesh.creation.box(size).export(folder / f"{name}.off")
    return folder


def render(root: Path, **changes):
    defaults = {
        "options": (), "preset": "mvcnn_v1", "size": 16, "up_axis": None, "shading": None,
        "workers": 0, "lenient": False,
    }  # fmt: skip
    return render_data("toy", root, root.parent / "views", **{**defaults, **changes})


def content(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_a_data_set_is_rendered_and_the_next_command_named(root, capfd):
    result = render(root)
    assert json.loads(json.dumps(result)) == result
    assert (result["rendered"], result["skipped"], result["quarantined"]) == (3, 0, 0)
    assert result["views_per_second"] > 0
    said = capfd.readouterr().err
    views = root.parent / "views"
    assert f"{views}: 3 shapes rendered (" in said
    assert (
        f"next: img2shape data pack toy --root '{root}' --views-from {views} --out SHARDS" in said
    )
    opened = open_rendered(views)
    assert opened.spec_json["digest"] == result["spec_digest"]
    assert len(opened.files("toy-cube", source="cube.off") or ()) == 12


def test_a_second_call_continues(root, capfd):
    render(root, options=["only=cube"])
    assert "next: img2shape data pack toy --root" in (said := capfd.readouterr().err)
    assert " -o only=cube " in said
    result = render(root)
    assert (result["rendered"], result["skipped"]) == (2, 1)
    assert "2 shapes rendered" in (said := capfd.readouterr().err)
    assert ", 1 were there already" in said
    assert render(root)["views_per_second"] == 0


def test_bad_meshes_are_counted_and_the_first_reasons_given(root, capfd):
    for number in range(6):
        (root / f"bad{number}.off").write_text("OFF 0 0 0\n")
    result = render(root)  # nine meshes: in processes
    assert (result["rendered"], result["quarantined"], len(result["reasons"])) == (3, 6, 5)
    assert result["reasons"][0]["source_path"] == "bad0.off"
    said = capfd.readouterr().err
    assert "toy: 9 meshes, published are 3" in said
    assert "6 could not be: see" in said
    assert "quarantine.jsonl; first: bad0.off: the mesh has no faces" in said
    assert " --lenient --views-from " in said  # else packing stops at bad0.off


@pytest.mark.ray
def test_ray_workers_give_the_same_bytes(root, ray_cluster):
    (root / "bad.off").write_text("OFF 0 0 0\n")
    here = render(root)
    expected = content(root.parent / "views")
    (root.parent / "views").rename(root.parent / "views here")
    there = render(root, workers=2)
    assert content(root.parent / "views") == expected
    timing = ("seconds", "views_per_second")
    assert {k: v for k, v in there.items() if k not in timing} == {
        k: v for k, v in here.items() if k not in timing
    }


def test_the_command_renders_a_real_layout(tmp_path, capfd):
    folder = tmp_path / "ModelNet40" / "chair" / "test"
    folder.mkdir(parents=True)
    trimesh.creation.box((1, 1, 1)).export(folder / "chair_0001.off")
    (folder / "chair_0002.off").write_text("OFF0 0 0")
    command = ("data", "render", "modelnet40", "--root", tmp_path / "ModelNet40")
    arguments = (*command, "--out", tmp_path / "views", "--size", 16)
    done = call(capfd, *arguments, "--json")
    assert (done.json["rendered"], done.json["quarantined"]) == (1, 1)
    assert done.json["reasons"][0]["source_path"].endswith("chair_0002.off")
    refused = call(capfd, *arguments, "--preset", "mvcnnv1")
    assert refused.complaint == "render: no preset 'mvcnnv1'; did you mean 'mvcnn_v1'?"
    assert "0 shapes rendered, 1 were there already, 1 could not be" in call(capfd, *arguments).err
    unknown = call(capfd, "data", "render", "modelnet4", *arguments[3:])
    assert "unknown data set 'modelnet4'; did you mean 'modelnet40'?" in unknown.complaint


def test_options_of_the_command_reach_the_views(root):
    digests = {
        render(root)["spec_digest"],
        render_data(
            "toy", root, root.parent / "b", options=(), preset="mvcnn_pt", size=16, up_axis="+y",
            shading="flat", workers=0, lenient=False,
        )["spec_digest"],
    }  # fmt: skip
    assert len(digests) == 2
    spec = open_rendered(root.parent / "b").spec_json["spec"]
    assert (spec["name"], spec["shading"], spec["ground"]) == ("mvcnn_pt", "flat", 0.0)
    notes = [json.loads(p.read_text()) for p in (root.parent / "b").rglob("shape.json")]
    assert {note["up_axis"] for note in notes} == {"+y"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"options": ["only"]}, "toy: option 'only' is not KEY=VALUE"),
        ({"options": ["=cube"]}, "toy: option '=cube' is not KEY=VALUE"),
        ({"options": ["only=a", "only=b"]}, "toy: option 'only' is given twice"),
        ({"options": ["onyl=cube"]}, "toy: no option 'onyl'; did you mean 'only'?"),
        ({"options": ["only=missing"]}, "no meshes to render"),
        ({"preset": "mvcnn-v1"}, "no preset 'mvcnn-v1'; did you mean 'mvcnn_v1'?"),
        ({"shading": "gouraud"}, "shading='gouraud' is out of range"),
        ({"up_axis": "z"}, r"--up-axis: no axis 'z'; did you mean '\+z'"),
    ],
)
def test_wrong_options_are_named_and_nothing_is_written(root, changes, message):
    with pytest.raises(DataError, match=message):
        render(root, **changes)
    assert not (root.parent / "views").exists()


def test_another_look_in_the_folder_is_refused(root):
    render(root)
    with pytest.raises(DataError, match=r"holds views with size=16 \(wanted 24\); choose another"):
        render(root, size=24)


def test_a_defect_is_an_error_or_with_lenient_left_out(root, capfd):
    (root / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"notes\.txt is no mesh; remove it, or pass --lenient"):
        render(root)
    result = render(root, lenient=True)
    assert (result["rendered"], result["left_out"]) == (3, 1)
    said = capfd.readouterr().err
    assert "toy: left out 1 items; the first: notes.txt is no mesh" in said
    assert " --lenient --views-from " in said


def test_a_data_set_is_read_with_its_options(root):
    chosen, options, records, findings = read_dataset(
        "toy", root, options=["name=mine", "only=rod"], lenient=False, strict=True
    )
    assert chosen is TOY
    assert options == Options(name="mine", only="rod")
    assert [record.key for record in records] == ["mine-rod"]
    assert (findings.dataset, findings.strict) == ("mine", True)
    (root / "rod.off").unlink()
    with pytest.raises(DataError, match="2 meshes, published are 3"):
        read_dataset("toy", root, options=(), lenient=False, strict=True)


def test_the_up_axis_is_that_of_the_data_set_unless_given(root):
    records = toy_records(root, Options(), Findings("toy"))
    assert with_up_axis(records, None) == records
    assert {r.up_axis for r in with_up_axis(records, "+y")} == {"+y"}
    picture = Record("p", "image", "test", None, image=root / "p.png")
    assert with_up_axis([picture], "+y") == [picture]


def test_the_preset_keeps_its_shading_unless_another_is_given():
    assert view_spec("mvcnn_pt", size=32).shading == "phong"
    assert view_spec("mvcnn_pt", size=32, shading="flat").shading == "flat"


def test_the_up_axis_is_said_stored_and_shown(tmp_path, capfd):
    folder = tmp_path / "mine" / "meshes" / "lamp"
    folder.mkdir(parents=True)
    foot = trimesh.creation.cylinder(1, 0.1, sections=32)
    lamp = foot + trimesh.creation.cylinder(0.1, 3, sections=8).apply_translation((0, 0, 1.5))
    for number in range(2):  # z up, in a format that is taken for y up
        lamp.export(folder / f"{number}.obj")
    command = ("data", "render", "folder", "--root", tmp_path / "mine", "--size", 16)
    done = call(capfd, *command, "--out", tmp_path / "a", "--json")
    sheet = tmp_path / "a" / "sheet.png"
    because = "the format does not say; Blender, three.js and obj2gltf take +y"
    check = f"look at {sheet}, lying shapes: --up-axis +z"
    assert f"up axis: +y for 2 .obj ({because}); {check}" in done.err
    assert done.json["warnings"] == [
        "2 of 2 .obj that were looked at have a large flat base at the lower end of z: they look "
        "like +z up"
    ]
    assert done.json["up_axis"] == {".obj": {"axis": "+y", "because": because}}
    assert json.loads((tmp_path / "a/render.json").read_bytes())["up_axis"] == done.json["up_axis"]
    with Image.open(sheet) as picture:
        assert picture.width > 12 * 96
    turned = call(capfd, *command, "--out", tmp_path / "b", "--up-axis", "+z", "--json")
    assert "up axis: +z for 2 .obj (given by --up-axis); look at" in turned.err
    assert turned.json["warnings"] == []
    assert turned.json["spec_digest"] != done.json["spec_digest"]
    packing = ("data", "pack", "folder", "--root", tmp_path / "mine", "--size", 16)
    call(capfd, *packing, "--out", tmp_path / "packed", "--json")
    views = ("--views-from", tmp_path / "a")
    call(capfd, *packing, *views, "--out", tmp_path / "packed a", "--json")
    for name in ("packed", "packed a"):
        about = load_manifest(tmp_path / name).metadata["render"]
        assert (about["up_axis"], about["digest"]) == (
            done.json["up_axis"], done.json["spec_digest"],
        )  # fmt: skip
    assert (tmp_path / "packed" / "sheet.png").is_file()
