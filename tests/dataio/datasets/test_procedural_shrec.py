"""The benchmark in the SHREC'14 layout: the same sketches and shapes, read by its adapter."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataio.datasets import procedural, shrec
from dataio.datasets.procedural import SIZES, BenchmarkSize, make_procedural
from dataio.datasets.procedural_files import VIEWS
from dataio.datasets.procedural_shrec import records, write_as_shrec
from dataio.datasets.registry import parse_options
from dataio.findings import Findings
from dataio.meshes.reading import load_mesh
from dataio.meshes.rendering import render_views
from dataio.records import DataError, Record

TINY = BenchmarkSize(("bottle", "chair"), (1, 0, 1), (4, 1, 2), (3, 1, 2))
MODELS = "SHREC14LSSTB_TARGET_MODELS"
EVALUATION = "SHREC14_Sketch_Evaluation"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", TINY)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    SIZES["tiny"] = TINY
    return make_procedural(tmp_path_factory.mktemp("raw"), size="tiny", workers=1)


@pytest.fixture(scope="module")
def made(raw, tmp_path_factory) -> Path:
    return write_as_shrec(raw, tmp_path_factory.mktemp("shrec"))


def contents(root: Path) -> dict[str, bytes]:
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in files}


def read(root: Path) -> list[Record]:
    _, shrec14 = shrec.ADAPTERS
    findings = Findings("shrec14")
    records = shrec14.read(root, parse_options(shrec14, {"name": "procedural-shrec"}), findings)
    assert findings.warnings == []
    return records


def raw_models(raw: Path) -> list[Path]:
    """The benchmark's meshes in the order in which they are numbered."""
    return [
        file
        for label in TINY.classes
        for split in ("train", "val", "test")
        for file in sorted((raw / "model" / split / label).glob("*.obj"))
    ]


def test_the_tracks_adapter_reads_every_sketch_and_shape(made):
    records = read(made)
    assert Counter((r.stream, r.split, r.label) for r in records) == {
        (stream, split, label): n
        for label in TINY.classes
        for stream, split, n in (
            ("sketch", "train", 3),
            ("sketch", "test", 2),
            ("shape", "test", 7),
        )
    }
    assert "procedural-shrec-test-chair-m000008" in {record.key for record in records}


def test_the_class_files_have_tabs_and_their_own_line_ends(made):
    text = (made / EVALUATION / "SHREC14_SBR_Model.cla").read_bytes()
    assert text.startswith(b"PSB 1\r\n2 14\r\n\r\nbottle\t0 7\r\n000001\r\n")
    assert text.replace(b"\r\n", b"").count(b"\n") == 0
    text = (made / EVALUATION / "SHREC14_SBR_Sketch_Test.cla").read_bytes()
    assert text.startswith(b"PSB 1\r\n2 4\r\n\r\nbottle\t0 2\r\n4\r\n5\r\n")


def test_sketches_are_the_benchmarks_own_files(raw, made):
    train = made / "SHREC14LSSTB_SKETCHES/chair/train"
    assert [file.name for file in sorted(train.iterdir())] == ["6.png", "7.png", "8.png"]
    for number in (1, 2, 3):
        file = raw / f"sketch/train/chair/chair_train_sketch_{number:04d}.png"
        assert (train / f"{number + 5}.png").read_bytes() == file.read_bytes()


def test_every_mesh_is_the_benchmarks_own_geometry(raw, made):
    for number, file in enumerate(raw_models(raw), start=1):
        written, source = load_mesh(made / MODELS / f"M{number:06d}.off"), load_mesh(file)
        assert np.array_equal(written.vertices, source.vertices)
        assert np.array_equal(written.faces, source.faces)


def test_the_meshes_come_in_the_forms_found_in_the_wild(made):
    texts = [(made / MODELS / f"M{k:06d}.off").read_bytes() for k in range(1, 6)]
    assert texts[0][3:4].isdigit()
    assert b"\n# " in texts[1]
    assert texts[2].rstrip().endswith(b" 0.8 0.8 0.8")
    assert texts[3].count(b"\r\n") == texts[3].count(b"\n")
    assert texts[4].startswith(b"OFF\n")


def test_views_of_the_meshes_are_the_benchmarks_views(raw, made):
    shape = next(r for r in read(made) if r.key.endswith("m000009"))
    assert shape.mesh is not None
    views = render_views(load_mesh(shape.mesh), VIEWS)
    for k, view in enumerate(views, start=1):
        name = "chair_train_0002"
        file = raw / f"view/train/chair/{name}/{name}_{k:03d}.png"
        differs = np.abs(np.asarray(Image.open(file), float) - view)
        assert differs.mean() < 1  # the file's coordinates are rounded to 5 digits


def test_the_same_benchmark_gives_the_same_bytes_and_an_interruption_changes_nothing(
    raw, made, tmp_path
):
    seen = []
    write_as_shrec(raw, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(k, 24) for k in range(1, 25)]
    assert contents(tmp_path) == contents(made)
    stamp = tmp_path / "procedural-shrec.json"
    stamp.write_text(stamp.read_text().replace("true", "false"))
    (tmp_path / MODELS / "M000003.off").write_bytes(b"")
    shutil.rmtree(tmp_path / "SHREC14LSSTB_SKETCHES/chair")
    kept = (tmp_path / MODELS / "M000001.off").stat().st_mtime_ns
    write_as_shrec(raw, tmp_path)
    assert contents(tmp_path) == contents(made)
    assert (tmp_path / MODELS / "M000001.off").stat().st_mtime_ns == kept


def test_a_finished_folder_is_left_as_it_is(raw, made):
    before = {file: file.stat().st_mtime_ns for file in made.rglob("*")}
    assert write_as_shrec(raw, made) == made
    assert {file: file.stat().st_mtime_ns for file in made.rglob("*")} == before


def test_no_benchmark_an_unfinished_one_and_one_with_lost_files_are_refused(raw, tmp_path):
    with pytest.raises(DataError, match="no benchmark under"):
        write_as_shrec(tmp_path, tmp_path / "out")
    copy = tmp_path / "copy"
    shutil.copytree(raw, copy)
    lost = copy / "model/test/bottle/bottle_test_0001.obj"
    lost.unlink()
    with pytest.raises(DataError, match=r"bottle_test_0001\.obj: cannot read"):
        write_as_shrec(copy, tmp_path / "out")
    lost = copy / "sketch/test/chair/chair_test_sketch_0001.png"
    shutil.copytree(raw, copy, dirs_exist_ok=True)
    lost.unlink()
    with pytest.raises(DataError, match=r"sketch_0001\.png: cannot read .* make it again"):
        write_as_shrec(copy, tmp_path / "out")
    stamp = copy / "procedural.json"
    stamp.write_text(stamp.read_text().replace("true", "false"))
    with pytest.raises(DataError, match="unfinished; run make_procedural again"):
        write_as_shrec(copy, tmp_path / "out")
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "benchmark_version": 1}))
    stamp.write_text(stamp.read_text().replace("false", "true"))
    with pytest.raises(DataError, match="is of version 1, expected"):
        write_as_shrec(copy, tmp_path / "out")


def test_a_folder_with_other_data_is_refused(raw, made, tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds files and no procedural-shrec\.json"):
        write_as_shrec(raw, tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    stamp = copy / "procedural-shrec.json"
    stamp.write_text(stamp.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="was made from another benchmark"):
        write_as_shrec(raw, copy)
    stamp.write_text("{")
    with pytest.raises(DataError, match=r"procedural-shrec\.json' is not readable"):
        write_as_shrec(raw, copy)


def test_it_is_packed_with_the_styles_views_under_its_own_name(raw, tmp_path):
    from cluster.data_jobs import make_benchmark

    options = {"size": "tiny", "seed": 0, "layout": "shrec", "workers": 1}
    shutil.copytree(raw, tmp_path / "raw")
    manifest = make_benchmark(tmp_path, **options)
    assert manifest.metadata["dataset"] == "procedural-tiny-shrec"
    assert manifest.metadata["render"]["digest"] == VIEWS.digest
    assert len(manifest.keys) == 24
    assert make_benchmark(tmp_path, **options).fingerprint == manifest.fingerprint
    with pytest.raises(DataError, match=r"holds data set 'procedural-tiny-shrec' .* not 'proce"):
        make_benchmark(tmp_path, **{**options, "layout": "mi3dor"})
    with pytest.raises(DataError, match="no layout 'shrek'; choose from mi3dor, shrec"):
        make_benchmark(tmp_path, **{**options, "layout": "shrek"})


def test_only_a_finished_folder_is_read(made, tmp_path):
    assert [record.key for record in records(made)] == [record.key for record in read(made)]
    with pytest.raises(DataError, match=r"no finished procedural-shrec\.json in"):
        records(tmp_path)


def test_the_benchmarks_own_adapter_reads_its_raw_tree(raw, tmp_path):
    (own,) = procedural.ADAPTERS
    everything = own.read(raw, parse_options(own, {}), Findings("procedural", strict=True))
    assert everything == procedural.records(raw)
    assert Counter(r.stream for r in everything) == {"image": 4, "sketch": 12, "shape": 14}
    chairs = own.read(
        raw, parse_options(own, {"classes": "[chair]", "name": "mine"}), Findings("mine")
    )
    assert {record.label for record in chairs} == {"chair"}
    assert all(record.key.startswith("mine-") for record in chairs)
    shutil.copytree(raw, tmp_path / "raw")
    with pytest.raises(DataError, match=f"no benchmark under .*; did you mean '{tmp_path}/raw'"):
        own.read(tmp_path, parse_options(own, {}), Findings("procedural"))
