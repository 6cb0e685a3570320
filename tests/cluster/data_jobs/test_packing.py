"""`img2shape data pack` and `data index`: from raw folders and foreign tars to sound data sets."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
import trimesh
from PIL import Image

from dataio.shards.manifest import MANIFEST_NAME
from dataio.shards.opening import load_manifest
from tests.command import Outcome, call
from tests.dataio.packed import picture


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Photos and meshes of two classes in the layout of the data set `folder`."""
    root = tmp_path_factory.mktemp("data") / "my things"
    for c, name in enumerate(("box", "ball")):
        (root / "images" / name).mkdir(parents=True)
        (root / "meshes" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(picture(10 * c + i)).save(root / "images" / name / f"{i}.jpg")
            made = (trimesh.creation.box, trimesh.creation.icosphere)[c]()
            made.apply_scale((1 + i, 1, 1)).export(root / "meshes" / name / f"{i}.off")
    return root


def pack(capfd, root: Path, out: Path, *more: object) -> Outcome:
    return call(capfd, "data", "pack", "folder", "--root", root, "--out", out, "--size", 16, *more)


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".inputs"  # has the times of the sources
    }


@pytest.fixture(scope="module")
def files(raw, tmp_path_factory) -> dict[str, str]:
    """The packed set, made by the functions the command calls; the files' hashes."""
    from cluster.data_jobs.packing import pack_data

    out = tmp_path_factory.mktemp("packed") / "set"
    pack_data(
        "folder", raw, out, options=(), splits=(), shard_size_mb=256, views="stack",
        views_from=None, max_size=None, preset="mvcnn_v1", size=16, up_axis=None, seed=0,
        workers=0, lenient=False, strict=False,
    )  # fmt: skip
    return hashes(out)


def test_packs_renders_and_says_what_next(raw, files, tmp_path, capfd):
    out = tmp_path / "set"
    done = pack(capfd, raw, out, "--json")
    result = done.json
    assert sum(result["counts"].values()) == result["samples"] == 12
    assert {kind.split("/")[0] for kind in result["counts"]} == {"image", "shape"}
    assert result["classes"] == ["ball", "box"]
    assert (result["skipped"], result["reasons"]) == (0, [])
    (paired,) = result["warnings"]
    assert paired.startswith(
        "6 of 6 pictures have a shape of their class and name: they are paired"
    )
    held = load_manifest(out)
    assert result["fingerprint"] == held.fingerprint
    assert result["shards"] == len(held.shards)
    assert result["size_bytes"] == sum((out / s.name).stat().st_size for s in held.shards)
    assert set(held.views.tolist()) == {0, 12}
    assert f"next: img2shape data verify {out}" in done.err
    assert f"data.root={out}" in done.err
    assert hashes(out) == files
    assert call(capfd, "data", "verify", out, "--json").json["ok"]


def test_the_manifest_says_where_it_comes_from_and_no_place(raw, tmp_path, capfd):
    pack(capfd, raw, tmp_path / "set", "-o", "name=mine", "-o", "classes=[box]")
    about = load_manifest(tmp_path / "set").metadata
    assert about["creator"] == "img2shape"
    assert about["dataset"] == "mine"
    assert about["adapter"] == {"name": "folder", "options": {"name": "mine", "classes": ["box"]}}
    assert about["terms"]
    assert about["render"]["spec"]["name"] == "mvcnn_v1"
    assert about["render"]["spec"]["size"] == 16
    assert len(about["render"]["digest"]) == 12
    assert about["skipped"] == 0
    assert sum(n for group in about["counts"].values() for n in group.values()) == 6
    assert str(raw.parent) not in json.dumps(about)


def test_views_rendered_before_give_the_same_samples(raw, tmp_path, capfd):
    views = tmp_path / "views"
    rendered = call(
        capfd, "data", "render", "folder", "--root", raw, "--out", views, "--size", 16
    )  # fmt: skip
    assert rendered.code == 0, rendered.err
    before = pack(capfd, raw, tmp_path / "before", "--views-from", views, "--json").json
    while_packing = pack(capfd, raw, tmp_path / "while", "--json").json
    assert before["fingerprint"] == while_packing["fingerprint"]
    about = [load_manifest(tmp_path / name).metadata for name in ("before", "while")]
    assert about[0]["render"] == about[1]["render"]


def test_a_shape_without_views(raw, tmp_path, capfd):
    views = tmp_path / "views"
    call(
        capfd, "data", "render", "folder", "--root", raw, "--out", views, "--size", 16,
        "-o", "classes=[box]",
    )  # fmt: skip
    wanted = pack(capfd, raw, tmp_path / "set", "--views-from", views).complaint
    assert "meshes/ball/0.off: no views in views (never rendered)" in wanted
    assert "run `img2shape data render`" in wanted
    done = pack(capfd, raw, tmp_path / "set", "--views-from", views, "--lenient", "--json")
    assert done.json["skipped"] == 3
    assert done.json["samples"] == 9
    nothing = pack(capfd, raw, tmp_path / "other", "--views-from", tmp_path / "none").complaint
    assert "data render" in nothing


def test_splits(raw, tmp_path, capfd):
    split = pack(capfd, raw, tmp_path / "set", "--split", "train", "--json").json
    assert {kind.split("/")[1] for kind in split["counts"]} == {"train"}
    wrong = pack(capfd, raw, tmp_path / "other", "--split", "val").complaint
    assert "no samples of --split val; there are: train (" in wrong
    assert not (tmp_path / "other").exists()


def test_lenient_lists_what_is_left_out(raw, tmp_path, capfd):
    root = tmp_path / "things"
    shutil.copytree(raw, root)
    photo, mesh = root / "images" / "box" / "1.jpg", root / "meshes" / "ball" / "2.off"
    photo.write_bytes(photo.read_bytes()[:-200])
    mesh.write_text("OFF\n3 1 0\n0 0 0\n")
    out = tmp_path / "set"
    assert pack(capfd, root, out).complaint
    done = pack(capfd, root, out, "--lenient", "--json")
    assert done.json["skipped"] == 2
    assert done.json["samples"] == 10
    assert len(done.json["reasons"]) == 2
    listed = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    assert {one["source_path"] for one in listed} == {"images/box/1.jpg", "meshes/ball/2.off"}
    assert str(tmp_path) not in (out / "skipped.jsonl").read_text()
    assert f"left out: 2, listed in {out}/skipped.jsonl" in done.err
    assert all(reason in done.err for reason in done.json["reasons"])


def test_interrupted_the_same_command_continues(raw, files, tmp_path, capfd, monkeypatch):
    def interrupted(*_args):
        raise KeyboardInterrupt

    out = tmp_path / "set"
    with monkeypatch.context() as patch:
        patch.setattr("dataio.packing.records_to_shards.write_manifest", interrupted)
        stopped = pack(capfd, raw, out)
    assert stopped.code == 130
    assert stopped.err.splitlines()[-1].endswith("the same command, given again, continues")
    assert (out / ".packing").is_dir()
    done = pack(capfd, raw, out)
    assert "continuing: 12 of 12 samples were packed already" in done.err
    assert hashes(out) == files


def test_another_set_in_the_folder_is_refused(raw, tmp_path, capfd):
    out = tmp_path / "set"
    first = pack(capfd, raw, out, "--json").json
    assert pack(capfd, raw, out, "--json").json["fingerprint"] == first["fingerprint"]
    before = hashes(out)
    assert "another version" in pack(capfd, raw, out, "--seed", 4).complaint
    assert "already holds data set 'folder'" in pack(capfd, raw, out, "-o", "name=x").complaint
    assert hashes(out) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--up-axis", "x"), "--up-axis: no axis 'x'"),
        (("--preset", "mvcnn"), "no preset 'mvcnn'"),
        (("--views", "jpg"), "'jpg' is not one of 'stack', 'npy'"),
        (("-o", "colour=red"), "no option 'colour'"),
        (("--max-size", 30), "use 32 or views='npy'"),
    ],
)
def test_bad_options(raw, tmp_path, capfd, options, message):
    assert message in pack(capfd, raw, tmp_path / "set", *options).complaint
    assert not (tmp_path / "set").exists()


@pytest.mark.ray
def test_ray_workers_give_the_same_bytes(raw, files, tmp_path, capfd, ray_cluster):
    done = pack(capfd, raw, tmp_path / "set", "--workers", 2)
    assert done.code == 0, done.err
    assert hashes(tmp_path / "set") == files


def tar(path: Path, count: int, *, key: str) -> None:
    with tarfile.open(path, "w") as archive:
        for i in range(count):
            buffer = io.BytesIO()
            Image.fromarray(picture(i)).save(buffer, format="JPEG")
            for suffix, data in (("jpg", buffer.getvalue()), ("cls", str(i % 2).encode())):
                info = tarfile.TarInfo(f"{key}{i}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def test_index(tmp_path, capfd):
    tar(tmp_path / "00000.tar", 5, key="a")
    tar(tmp_path / "test.tar", 3, key="b")
    names = tmp_path / "names.txt"
    names.write_text("chair\nbed\n")
    index = ("data", "index", tmp_path, "--stream", "image", "--class-names", names, "--json")
    first = call(capfd, *index, "--tar", "0*.tar").json
    assert first["counts"] == {"image/train": 5}
    assert first["classes"] == ["bed", "chair"]
    both = call(capfd, *index, "--tar", "test.tar", "--split", "test", "--add").json
    assert both["counts"] == {"image/test": 3, "image/train": 5}
    assert both["dataset"] == tmp_path.name
    assert (tmp_path / MANIFEST_NAME).exists()
    assert "pass --add" in call(capfd, *index[:-1]).complaint
    verified = call(capfd, "data", "verify", tmp_path, "--json")
    assert "leak" in verified.out.lower()


def test_index_of_a_url_is_refused(capfd):
    said = call(capfd, "data", "index", "https://host/set?token=x", "--stream", "image").complaint
    assert "do it where the tars are files" in said
    assert "token" not in said
