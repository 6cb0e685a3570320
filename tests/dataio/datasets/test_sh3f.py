"""Furniture libraries of Sweet Home 3D: small ones, made here, with every known defect."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataio.datasets import sh3f_library
from dataio.datasets.registry import adapter, parse_options
from dataio.datasets.sh3f import Options, records
from dataio.datasets.sh3f_classes import SHIPPED, label_of, read_rules
from dataio.findings import Findings
from dataio.meshes import load_mesh, render_mesh
from dataio.meshes.rendering import preset
from dataio.packing.records_to_shards import pack
from dataio.records import DataError, Record
from tests.dataio.datasets.furniture import box, entry, library, picture, zipped


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """The home of the tests' user, which unpacked files go into."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home" / ".cache" / "img2shape" / "sh3f"


@pytest.fixture
def root(tmp_path) -> Path:
    """Two libraries: 8 chairs, 4 tables and a thing without a class; 4 chairs."""
    one = [entry(k, f"Oak chair {k}") for k in range(1, 9)]
    one += [entry(k, "Coffee table") for k in range(9, 13)] + [entry(13, "Fork")]
    library(tmp_path / "libs" / "Alpha.sh3f", one)
    two = [entry(k, "Chair", license="CC-BY", creator="Ann") for k in range(1, 5)]
    library(tmp_path / "libs" / "beta.sh3f", two, license="Free Art", provider="Ben")
    return tmp_path / "libs"


def read(root: Path, *, lenient: bool = False, **options: Any) -> tuple[list[Record], Findings]:
    findings = Findings("sh3f", lenient=lenient)
    return records(root, Options(**options), findings), findings


def refused(root: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read(root, **options)
    return str(caught.value)


def said(findings: Findings, part: str) -> str:
    (found,) = [one for one in findings.warnings if part in one]
    return found


def with_stream(made: list[Record], stream: str) -> list[Record]:
    return [one for one in made if one.stream == stream]


# ---- entries


def test_every_entry_with_a_class_is_a_picture_and_a_shape(root):
    made, findings = read(root)
    assert Counter((one.stream, one.label) for one in made) == {
        ("image", "chair"): 12, ("shape", "chair"): 12,
        ("image", "table"): 4, ("shape", "table"): 4,
    }  # fmt: skip
    assert len({one.key for one in made}) == len(made)
    assert {one.up_axis for one in with_stream(made, "shape")} == {"+y"}
    for image, shape in zip(made[::2], made[1::2], strict=True):
        assert (image.source_path, image.split) == (shape.source_path, shape.split)
    assert made[0].source_path == "Alpha.sh3f#Lib#piece1"
    assert made[0].image is not None
    assert made[0].image.read_bytes() == picture(sum(map(ord, "Alpha")) + 1)
    assert "1 entries are in no class of sh3f_classes.yaml" in said(findings, "no class")
    assert said(findings, "no class").endswith(": Fork")
    assert read(root)[0] == made


def test_libraries_and_licences_are_told_and_kept(root):
    made, findings = read(root)
    assert "4 entries, licence: Free Art, provider: Ben" in said(findings, "beta.sh3f")
    assert findings.metadata["libraries"][1] == {
        "file": "beta.sh3f", "name": "beta", "license": "Free Art", "provider": "Ben", "entries": 4,
    }  # fmt: skip
    assert made[0].extra == {"library": "Alpha", "license": "CC0", "name": "Oak chair 1"}
    assert made[-1].extra["license"] == "CC-BY"  # the entry's own
    assert made[-1].extra["creator"] == "Ann"


def test_a_root_is_a_file_a_folder_or_debians_package(root, tmp_path):
    package = tmp_path / "deb" / "usr" / "share" / "sweethome3d" / "furniture"
    package.mkdir(parents=True)
    (package / "beta.sh3f").write_bytes((root / "beta.sh3f").read_bytes())
    alone, _ = read(root / "beta.sh3f")
    in_package, _ = read(tmp_path / "deb")
    assert [one.source_path for one in alone] == [
        f"beta.sh3f#Lib#piece{k}" for k in (1, 2, 3, 4) for _ in range(2)
    ]
    assert [one.source_path for one in in_package] == [o.source_path for o in alone]


def test_libraries_are_chosen_by_name(root):
    made, _ = read(root, libraries="BETA")
    assert {one.source_path.partition("#")[0] for one in made} == {"beta.sh3f"}
    assert len(read(root, libraries="Alpha, beta")[0]) == len(read(root)[0])
    assert "no library 'Alpa'; did you mean 'Alpha'?" in refused(root, libraries=["Alpa"])


def test_names_in_a_catalogue_are_encoded(tmp_path):
    content = [
        entry(1, r"Canap\u00e9 chair", icon="/box/a%20b.png", model="/caf%C3%A9/1%25.obj"),
        entry(2, "Stool \xe9", id="", icon="box/2.png"),
    ]
    file = library(
        tmp_path / "a.sh3f", content, files={"box/a b.png": picture(1), "café/1%.obj": box()}
    )
    made, _ = read(file)
    assert [one.extra["name"] for one in made[::2]] == ["Canapé chair", "Stool é"]
    assert made[2].source_path == "a.sh3f#2"


def test_a_zip_of_a_mesh_is_read_and_other_formats_are_counted(tmp_path):
    content = [
        entry(1, "Chair", model="/m/1.zip"),
        entry(2, "Red chair", model="/m/2.dae"),
        entry(3, "Stool", model="/m/3.zip"),
        entry(4, "Blue chair", model="/m/4.dae"),
        entry(5, "Fork", model="/m/5.3ds"),  # of no class: not counted
    ]
    held = {"readme.txt": b"", "../../../evil.obj": box(x=3)}
    file = library(
        tmp_path / "a.sh3f",
        content,
        files={
            "m/1.zip": zipped(held), "m/2.dae": b"<COLLADA/>", "m/3.zip": zipped({"x/y.dae": b""}),
            "m/4.dae": b"",
        },
    )  # fmt: skip
    made, findings = read(file)
    (shape,) = with_stream(made, "shape")
    assert shape.mesh is not None
    assert load_mesh(shape.mesh).extents.tolist() == [3, 1, 1]
    assert "2 entries" in said(findings, "not read, .dae,")
    assert said(findings, "not read, .dae,").endswith("Red chair, Blue chair")
    assert said(findings, "not read, .zip of .dae,").endswith("Stool")
    assert not findings.skipped


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"icon": ""}, "has no icon"),
        ({"icon": "/gone.png"}, "its icon '/gone.png' is not in the library"),
        ({"icon": "http://example.org/a.png"}, "is not in the library"),
        ({"model": "/../../etc/passwd"}, "is not in the library"),
        ({"model": "/box/"}, "is not in the library"),
        ({"model": "/torn.zip"}, "is not a readable zip"),
        ({"modelRotation": "1 0 0 0 1 0 0 0"}, "is no rotation of nine numbers"),
        ({"modelRotation": "1 0 0 0 nan 0 0 0 1"}, "is no rotation of nine numbers"),
        ({"modelRotation": "1 0 0 1 0 0 0 0 1"}, "is no rotation of nine numbers"),
        ({"name": ""}, "has no name"),
        ({"id": "Lib#piece2"}, "its id is there twice"),
    ],
)
def test_a_broken_entry_is_named(tmp_path, fields, reason):
    content = [entry(2, "Chair"), entry(1, "Red chair", **fields)]
    content[0] |= {"icon": "/box/2.png", "model": "/box/2.obj"}
    file = library(tmp_path / "a.sh3f", content, files={"torn.zip": b"PK", "box/": b""})
    told = refused(file)
    assert reason in told
    assert "a.sh3f#" in told
    assert "--lenient" in told
    made, findings = read(file, lenient=True)
    assert len(made) == 2
    assert [reason in one.reason for one in findings.skipped] == [True]


def test_a_damaged_file_in_a_library_is_named(tmp_path):
    file = library(tmp_path / "a.sh3f", [entry(1, "Chair"), entry(2, "Chair")])
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as opened:
        info = opened.getinfo("box/1.obj")
    at = info.header_offset + 30 + len(info.filename)
    content[at : at + 20] = bytes(20)
    file.write_bytes(content)
    assert "'box/1.obj' in it is damaged" in refused(file)


def test_nothing_larger_than_a_mesh_is_unpacked(tmp_path, monkeypatch, cache):
    bomb = {"model": "/bomb.obj"}
    file = library(
        tmp_path / "a.sh3f",
        [entry(1, "Chair", **bomb), entry(2, "Chair")],
        files={"bomb.obj": bytes(1 << 20)},
    )
    monkeypatch.setattr(sh3f_library, "_MOST_MESH_BYTES", 1 << 16)
    _, findings = read(file, lenient=True)
    assert "'bomb.obj' has more than 0 MiB" in findings.skipped[0].reason
    # Nor if the header says less than there is.
    content = bytearray(file.read_bytes())
    at = content.index(b"bomb.obj", content.index(b"PK\x01\x02")) - 46  # in the directory
    content[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    file.write_bytes(content)
    _, findings = read(file, lenient=True)
    assert "'bomb.obj' in it is damaged" in findings.skipped[0].reason
    assert max(one.stat().st_size for one in cache.rglob("*.obj")) < 1 << 16
    monkeypatch.setattr(sh3f_library, "_MOST_BYTES", 1)
    assert "unpacks to more than" in refused(file)


def test_unpacked_files_stay_in_their_folder_and_keep_their_time(tmp_path, cache):
    content = [entry(1, "Chair", id="../../../../evil"), entry(2, "Chair", id="Lib#/etc/x")]
    file = library(tmp_path / "a.sh3f", content)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    made, _ = read(file)
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert len(written) == 4
    assert all(path.parent.parent == cache for path in written)
    times = {path: path.stat().st_mtime_ns for path in written}
    for path in written:
        path.unlink()
    assert read(file)[0] == made
    assert {path: path.stat().st_mtime_ns for path in written} == times
    damaged = sorted(written)[0]
    damaged.write_bytes(bytes(damaged.stat().st_size))
    read(file)
    assert damaged.read_bytes().strip(b"\0")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"no zip", "not a readable library"), (zipped({"a.txt": b""}), "holds no PluginFurniture")],
)
def test_what_is_no_library_is_refused(tmp_path, content, reason):
    (tmp_path / "a.sh3f").write_bytes(content)
    told = refused(tmp_path)
    assert reason in told
    assert "a.sh3f" in told


def test_no_library_and_no_usable_entry_are_refused(tmp_path):
    (tmp_path / "a.zip").touch()
    assert "Expected a .sh3f file" in refused(tmp_path)
    assert "Found: 'a.zip'" in refused(tmp_path)
    file = library(tmp_path / "a.sh3f", [entry(1, "Fork")])
    assert "no entry" in refused(file)


# ---- splits


def shares(made: list[Record]) -> dict[tuple[str | None, str], int]:
    return dict(Counter((one.label, one.split) for one in with_stream(made, "image")))


def test_shares_are_exact_and_seeded(root):
    made, _ = read(root)
    assert shares(made) == {
        ("chair", "test"): 3, ("chair", "train"): 9, ("table", "test"): 1, ("table", "train"): 3,
    }  # fmt: skip
    made, _ = read(root, test_share=0.5, val_share=0.25)
    assert shares(made) == {
        ("chair", "test"): 6, ("chair", "val"): 3, ("chair", "train"): 3,
        ("table", "test"): 2, ("table", "val"): 1, ("table", "train"): 1,
    }  # fmt: skip
    drawn = [[one.split for one in read(root, seed=seed)[0]] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {one.split for one in read(root, test_share=1)[0]} == {"test"}
    with pytest.raises(DataError, match="more than 1 together"):
        parse_options(adapter("sh3f"), {"test_share": "0.7", "val_share": "0.7"})


def test_equal_pictures_and_meshes_are_of_one_split(tmp_path):
    """Ties go over several entries: 1 and 2 share a picture, 2 and 3 a mesh."""
    content = [entry(k, "Chair") for k in range(1, 9)]
    content[1]["icon"], content[2]["model"] = content[0]["icon"], content[1]["model"]
    file = library(tmp_path / "a.sh3f", content)
    for seed in range(12):
        made, _ = read(file, seed=seed, test_share=0.5)
        splits = [one.split for one in with_stream(made, "image")]
        assert len(set(splits[:3])) == 1
        assert splits.count("test") == 4


# ---- classes


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Armchair", "chair"), ("BAR STOOLS", "chair"), ("Desk lamp", "lamp"), ("Desk", "table"),
        ("Bedside table", "table"), ("Glass table", "table"), ("Glass door cabinet", "cabinet"),
        ("Glass door", "door"), ("Beer glass", "vessel"), ("Sunglasses", None), ("Glasses", None),
        ("Table fan", None), ("Pedestal vase lamp", "lamp"), ("Vase", "vessel"), ("Van", "car"),
        ("Cardboard box", None), ("Bonsai  tree", "plant"), ("Sitting girl", "person"),
        ("Toilets unit", "bath"), ("Toilet paper dispenser", None), ("Shelves", "cabinet"),
    ],
)  # fmt: skip
def test_the_shipped_rules(name, label):
    assert label_of(name, read_rules(SHIPPED, dataset="sh3f")) == label


def test_rules_can_be_replaced(root, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("- {class: null, words: [oak]}\n- {class: Seat, words: [chair]}\n")
    given = parse_options(adapter("sh3f"), {"classes": str(file)})
    findings = Findings("sh3f")
    made = records(root, given, findings)
    assert {one.label for one in made} == {"seat"}
    assert "13 entries are in no class of mine.yaml" in said(findings, "no class")
    kept, _ = read(root, classes=["table"])
    assert {one.label for one in kept} == {"table"}
    assert "unknown class 'tabel'; did you mean 'table'?" in refused(root, classes=["tabel"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "not readable YAML"),
        ("chair: [stool]", "expected a list of rules"),
        ("[]", "expected a list of rules"),
        ("- {class: chair}", "rule 1: expected"),
        ("- {class: chair, words: [a]}\n- {class: 3, words: [a]}", "rule 2: class 3 is no name"),
        ("- {class: chair, words: stool}", "words 'stool' are no list of words"),
        ("- {class: chair, words: [yes]}", "quote numbers"),
    ],
)
def test_bad_rules_are_named(root, tmp_path, text, reason):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    told = refused(root, rules=file)
    assert reason in told
    assert "mine.yaml" in told
    assert "no file 'chair'" in refused(root, classes="chair")


# ---- rotation


ROTATION = "0 0 1 0 1 0 -1 0 0"  # 90 degrees about y: x to -z, z to x


def test_a_mesh_is_turned_by_its_rotation(tmp_path):
    """The views of a turned box are those of a file that was written as turned."""
    corner = b"v 0 0 3\nf 1 2 9\n"  # so that no symmetry hides a wrong sign
    turned = "0.6 0 0.8 0 1 0 -0.8 0 0.6"
    matrix = np.array(turned.split(), float).reshape(3, 3)
    mesh = box(x=2, y=0.5) + corner
    lines = []
    for line in mesh.decode().splitlines():
        if line.startswith("v "):
            line = "v " + " ".join(map(repr, (matrix @ np.array(line[2:].split(), float)).tolist()))
        lines.append(line)
    content = [entry(1, "Chair", modelRotation=turned), entry(2, "Chair"), entry(3, "Chair")]
    files = {"box/1.obj": mesh, "box/2.obj": "\n".join(lines).encode(), "box/3.obj": mesh}
    made, _ = read(library(tmp_path / "a.sh3f", content, files=files))
    spec = preset("mvcnn_v1", size=32)
    first, second, third = (render_mesh(one, spec=spec) for one in with_stream(made, "shape"))
    assert np.abs(first.astype(int) - second).max() <= 2
    assert np.abs(first.astype(int) - third).max() > 50


def test_the_first_view_shows_the_front(tmp_path):
    """A wide plate at the front, z=1, hides a narrow one behind it; not so from behind."""
    plates = "v -2 -1 1\nv 2 -1 1\nv 2 1 1\nv -2 1 1\nf 1 2 3 4\n"
    plates += "v -2 -1 0\nv 2 -1 0\nv 2 -0.5 0.5\nv -2 -0.5 0.5\nf 5 6 7 8\n"
    file = library(tmp_path / "a.sh3f", [entry(1, "Bed")], files={"box/1.obj": plates.encode()})
    (shape,) = with_stream(read(file)[0], "shape")
    views = render_mesh(shape, spec=preset("mvcnn_v1", size=32, elevation_degrees=0))
    assert len(np.unique(views[0][views[0] < 255])) <= 4  # one plate, of one grey
    assert len(np.unique(views[6])) > len(np.unique(views[0]))


def test_rows_of_the_rotation_are_rows_of_the_matrix(tmp_path):
    made, _ = read(
        library(tmp_path / "a.sh3f", [entry(1, "Chair", modelRotation=ROTATION), entry(2, "Bed")])
    )
    shapes = with_stream(made, "shape")
    # Half a turn about y is added: furniture faces +z, the first view looks at -z.
    assert shapes[0].rotation == (0, 0, -1, 0, 1, 0, 1, 0, 0)
    assert shapes[1].rotation == (-1, 0, 0, 0, 1, 0, 0, 0, -1)
    assert {one.rotation for one in with_stream(made, "image")} == {None}


# ---- packing


def test_a_library_is_packed_with_its_origins(root, tmp_path):
    made, findings = read(root, libraries="beta")
    spec = preset("mvcnn_v1", size=32)

    def render(record: Record) -> np.ndarray:
        return render_mesh(record, spec=spec)

    manifest = pack(made, tmp_path / "set", dataset="sh3f", render=render, findings=findings)
    assert set(manifest.origins) == {f"beta.sh3f#Lib#piece{k}" for k in range(1, 5)}
    assert manifest.metadata["libraries"][0]["license"] == "Free Art"
    assert str(tmp_path) not in (tmp_path / "set" / "manifest.parquet").read_bytes().decode("latin")


def test_picture_and_shape_of_an_entry_are_one_instance(root):
    made, _ = read(root)
    of_stream = {
        stream: [one.instance for one in made if one.stream == stream]
        for stream in ("image", "shape")
    }
    assert of_stream["image"] == of_stream["shape"]
    assert len(set(of_stream["image"])) == len(made) / 2
    assert "" not in of_stream["image"]
