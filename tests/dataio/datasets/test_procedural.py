"""The built-in benchmark: same seed same bytes, disjoint instances, pictures as the recipe says."""

from __future__ import annotations

import colorsys
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from dataio.datasets import procedural
from dataio.datasets.pictures.photos import PhotoSpec, photograph
from dataio.datasets.pictures.sketches import SketchSpec, draw_sketch
from dataio.datasets.procedural import SIZES, BenchmarkSize, instances, make_procedural, records
from dataio.datasets.procedural_files import VIEWS, Instance, make_mesh
from dataio.datasets.shapes.categories import CLASS_NAMES, build
from dataio.meshes.ray_casting import Scene
from dataio.meshes.rendering import render_views
from dataio.records import DataError

TINY = BenchmarkSize(("bottle", "chair"), (9, 1, 2), (3, 1, 2), (2, 0, 1))
INSTANCES = 2 * (12 + 6 + 3)
FILES = 2 * (12 + 6 * 13 + 3)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(SIZES, "tiny", TINY)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    SIZES["tiny"] = TINY
    return make_procedural(tmp_path_factory.mktemp("made"), size="tiny", workers=1)


def contents(root: Path) -> dict[str, str]:
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def scene_of(mesh: trimesh.Trimesh) -> Scene:
    return Scene(np.asarray(mesh.vertices), np.asarray(mesh.faces))


def part_ids(mesh: trimesh.Trimesh) -> np.ndarray:
    return np.asarray(mesh.face_attributes["part"])


def test_spawned_workers_write_the_same_bytes_as_this_process(made, tmp_path):
    torch = pytest.importorskip("torch")
    torch.ones(2, 2) @ torch.ones(2, 2)  # its threads must not matter
    assert contents(make_procedural(tmp_path, size="tiny", workers=2)) == contents(made)


def test_another_seed_makes_other_pictures(made, tmp_path):
    other = contents(make_procedural(tmp_path, size="tiny", seed=1, workers=1))
    same = contents(made)
    assert other.keys() == same.keys()
    assert not set(other.values()) & set(same.values())


def test_the_tree_holds_every_file_and_nothing_else(made):
    names = set(contents(made))
    assert len(names) == FILES + 1
    assert "image/test/chair/chair_test_photo_0002.jpg" in names
    assert "sketch/train/bottle/bottle_train_sketch_0001.png" in names
    assert "view/val/chair/chair_val_0001/chair_val_0001_012.png" in names
    assert "model/val/chair/chair_val_0001.obj" in names


def test_the_files_are_what_they_are_called(made):
    photo = Image.open(made / "image/train/chair/chair_train_photo_0001.jpg")
    view = Image.open(made / "view/train/chair/chair_train_0001/chair_train_0001_001.png")
    sketch = Image.open(made / "sketch/train/chair/chair_train_sketch_0001.png")
    assert (photo.format, photo.mode, photo.size) == ("JPEG", "RGB", (64, 64))
    assert (view.format, view.mode, view.size) == ("PNG", "L", (64, 64))
    assert (sketch.format, sketch.mode, sketch.size) == ("PNG", "L", (64, 64))


def test_the_stored_model_renders_to_the_stored_views(made):
    mesh = trimesh.load_mesh(made / "model/train/chair/chair_train_0001.obj", process=False)
    folder = made / "view/train/chair/chair_train_0001"
    stored = [np.asarray(Image.open(file)) for file in sorted(folder.iterdir())]
    again = render_views(mesh, VIEWS)
    assert np.abs(again.astype(int) - stored).mean() < 0.5  # the model has 5 decimals


def test_the_adapter_reads_the_benchmark(made):
    got = list(records(made))
    assert len(got) == INSTANCES
    assert {r.label for r in got} == {"bottle", "chair"}
    assert got[0].key == "procedural-train-bottle-bottle_train_photo_0001"
    assert sum(r.stream == "shape" and r.split == "test" for r in got) == 4
    assert all(len(r.views or ()) == 12 for r in got if r.stream == "shape")


class Stop(Exception):
    pass


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_run_is_continued(made, tmp_path, workers):
    seen = []

    def stop_early(done: int, total: int) -> None:
        seen.append((done, total))
        if done:
            raise Stop

    with pytest.raises(Stop):
        make_procedural(tmp_path, size="tiny", workers=workers, progress=stop_early)
    assert seen[0] == (0, INSTANCES)
    with pytest.raises(DataError, match="unfinished"):
        records(tmp_path)
    kept = tmp_path / "image/train/bottle/bottle_train_photo_0001.jpg"
    written = kept.stat().st_mtime_ns
    (tmp_path / "image/train/bottle/bottle_train_photo_0002.jpg").unlink()
    (tmp_path / "image/train/bottle/bottle_train_photo_0003.jpg").write_bytes(b"")
    make_procedural(tmp_path, size="tiny", workers=1, progress=lambda *c: seen.append(c))
    assert seen[-1] == (INSTANCES, INSTANCES)
    assert kept.stat().st_mtime_ns == written
    assert contents(tmp_path) == contents(made)


def test_a_finished_folder_is_returned_at_once_and_another_key_refused(made):
    calls = []
    again = make_procedural(made, size="tiny", progress=lambda *c: calls.append(c))
    assert (again, calls) == (made, [])
    with pytest.raises(DataError, match=r"holds version 2 size tiny seed 0, not .*seed 5; choose"):
        make_procedural(made, size="tiny", seed=5)
    with pytest.raises(DataError, match="size tiny seed 0, not version 2 size smoke"):
        make_procedural(made, size="smoke")


def test_another_version_is_refused(made, monkeypatch):
    monkeypatch.setattr(procedural, "BENCHMARK_VERSION", 99)
    with pytest.raises(DataError, match=r"holds version 2 .* not version 99"):
        make_procedural(made, size="tiny")


def test_a_folder_with_other_data_is_left_alone(tmp_path):
    (tmp_path / "view").mkdir()
    with pytest.raises(DataError, match="already holds 'view'"):
        make_procedural(tmp_path, size="tiny")
    (tmp_path / "procedural.json").write_text("{")
    with pytest.raises(DataError, match="not readable"):
        make_procedural(tmp_path, size="tiny")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "huge"}, "choose from smoke, small, medium, large"),
        ({"seed": -1}, "seed -1 is negative"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, message):
    with pytest.raises(DataError, match=message):
        make_procedural(tmp_path, **options)
    with pytest.raises(DataError, match="run make_procedural first"):
        records(tmp_path)


@pytest.mark.parametrize(
    ("size", "classes", "photos", "shapes", "sketches"),
    [
        ("smoke", 5, (60, 10, 20), (30, 6, 15), (8, 2, 4)),
        ("small", 10, (200, 20, 50), (60, 10, 30), (40, 10, 20)),
        ("medium", 21, (200, 20, 50), (60, 10, 30), (40, 10, 20)),
        ("large", 21, (600, 60, 100), (200, 30, 80), (200, 20, 50)),
    ],
)
def test_the_counts_of_the_sizes_are_pinned(size, classes, photos, shapes, sketches):
    chosen = SIZES[size]
    assert (chosen.photos, chosen.shapes, chosen.sketches) == (photos, shapes, sketches)
    assert len(set(chosen.classes)) == classes
    assert set(chosen.classes) <= set(CLASS_NAMES)
    total = classes * sum((*photos, *shapes, *sketches))
    assert sum(1 for _ in instances(size)) == total


def test_the_small_set_has_the_confusable_pairs():
    pairs = [("chair", "stool"), ("bottle", "vase"), ("bookshelf", "wardrobe"), ("sofa", "bed")]
    assert all(set(pair) <= set(SIZES["small"].classes) for pair in pairs)


def test_no_two_samples_share_an_instance():
    drawn = [tuple(i.random().integers(0, 2**62, 2)) for i in instances("smoke")]
    assert len(set(drawn)) == len(drawn)
    meshes = {
        make_mesh(Instance(stream, split, "bottle", number))[0].vertices.tobytes()
        for stream in ("image", "sketch", "shape")
        for split in ("train", "val", "test")
        for number in (1, 2)
    }
    assert len(meshes) == 18


def test_an_instance_does_not_depend_on_the_size_it_is_part_of():
    smoke, large = set(instances("smoke")), set(instances("large"))
    assert smoke <= large


@pytest.mark.parametrize("category", CLASS_NAMES)
def test_a_category_is_varied_and_normalised(category):
    meshes = [build(category, np.random.default_rng([7, k])) for k in range(14)]
    for mesh in meshes:
        vertices, faces = np.asarray(mesh.vertices), np.asarray(mesh.faces)
        box = vertices.min(axis=0), vertices.max(axis=0)
        np.testing.assert_allclose(box[0] + box[1], 0, atol=1e-9)
        assert np.linalg.norm(vertices, axis=1).max() == pytest.approx(1)
        assert len(np.unique(faces)) == len(vertices)
        assert 20 < len(faces) < 8000
        assert len(part_ids(mesh)) == len(faces)
    assert len({len(mesh.faces) for mesh in meshes}) >= 2  # parts that come and go
    extents = np.array([np.ptp(np.asarray(mesh.vertices), axis=0) for mesh in meshes])
    assert extents.std(axis=0).max() > 0.05  # proportions


def test_parts_tell_materials_apart():
    mesh = build("car", np.random.default_rng(0))
    assert set(part_ids(mesh)) == {0, 1, 2, 3}


def test_views_are_framed_like_the_published_ones():
    """Area quantiles of the public views: .15/.28/.306/.32 at 25/50/75/100 %; side .90."""
    views = np.concatenate(
        [render_views(build(name, np.random.default_rng([2, 1])), VIEWS) for name in CLASS_NAMES]
    )
    mask = views < 250
    area = mask.mean(axis=(1, 2))
    quarter, half, most = np.quantile(area, [0.25, 0.5, 0.75])
    assert 0.10 < quarter < 0.25
    assert 0.20 < half < 0.31
    assert 0.27 < most < 0.32
    assert area.max() < 0.35  # a pixel that is partly ground counts as shape here
    side = np.maximum(mask.any(axis=1).sum(axis=1), mask.any(axis=2).sum(axis=1)) / 64
    assert np.quantile(side, 0.75) == pytest.approx(0.9, abs=0.04)
    assert views.min() >= 0.3 * 255 - 1


def photos(category: str, count: int, *, hue: float, spec: PhotoSpec) -> np.ndarray:
    made = []
    for k in range(count):
        rng = np.random.default_rng([4, k])
        mesh = build(category, rng)
        made.append(photograph(scene_of(mesh), part_ids(mesh), rng, hue=hue, spec=spec))
    return np.stack(made)


def central_hues(pictures: np.ndarray) -> np.ndarray:
    middle = pictures[:, 24:40, 24:40].reshape(len(pictures), -1, 3).mean(axis=1) / 255
    return np.array([colorsys.rgb_to_hsv(*colour)[0] for colour in middle])


def test_photos_have_the_colours_of_photos():
    pictures = photos("sofa", 40, hue=0.6, spec=PhotoSpec()) / 255.0
    assert 0.3 < pictures.mean() < 0.6
    assert pictures.std(axis=(1, 2, 3)).mean() > 0.12
    assert (pictures.max(axis=3) - pictures.min(axis=3)).mean() > 0.15  # coloured
    assert len({p.tobytes() for p in pictures}) == 40


def test_the_tint_ties_the_hue_to_the_class():
    def near(tint: float) -> float:
        got = central_hues(photos("sofa", 40, hue=0.6, spec=PhotoSpec(tint=tint)))
        return float((np.abs(got - 0.6) < 0.1).mean())

    assert near(1.0) > 0.6
    assert near(0.0) < 0.4
    assert near(0.0) + 0.15 < near(0.7) + 0.1 < near(1.0) + 0.2


def test_sketches_are_dark_strokes_on_white_inside_the_margin():
    for k, category in enumerate(("chair", "car", "vase", "airplane")):
        rng = np.random.default_rng([5, k])
        sketch = draw_sketch(scene_of(build(category, rng)), rng, spec=SketchSpec())
        ink = sketch < 200
        assert 0.02 < ink.mean() < 0.45
        assert sketch[0].min() == 255
        rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
        assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(0.88 * 64, abs=4)


def test_the_stamp_names_the_key(made):
    stamp = json.loads((made / "procedural.json").read_text())
    version = procedural.BENCHMARK_VERSION
    assert stamp == {"benchmark_version": version, "size": "tiny", "seed": 0, "complete": True}
