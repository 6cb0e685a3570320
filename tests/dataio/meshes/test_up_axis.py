"""Which axis of meshes is up: told by kind of file, doubted where the geometry says another."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from dataio.meshes.up_axis import doubts, plain_up_axis, upright
from dataio.records import Record


def boxes(*parts):
    """Boxes of (size, centre), +z up."""
    made = []
    for size, centre in parts:
        box = trimesh.creation.box(size)
        box.apply_translation(centre)
        made.append(box)
    return trimesh.util.concatenate(made)


def disc(radius, height, centre):
    made = trimesh.creation.cylinder(radius, height, sections=48)
    made.apply_translation(centre)
    return made


LAMP = trimesh.util.concatenate(
    [disc(1, 0.1, (0, 0, 0)), disc(0.05, 3, (0, 0, 1.5)), disc(0.6, 0.8, (0, 0, 3))]
)
CHAIR = boxes(
    ((1, 1, 0.1), (0, 0, 0.5)),
    ((1, 0.1, 0.9), (0, 0.45, 1)),
    *(((0.1, 0.1, 0.5), (x, y, 0.25)) for x in (-0.45, 0.45) for y in (-0.45, 0.45)),
)
SCREEN = boxes(
    ((2, 0.1, 1.2), (0, -0.2, 1)), ((0.2, 0.2, 0.5), (0, 0, 0.2)), ((1, 1, 0.1), (0, 0, 0))
)
SHELF = boxes(((1, 0.05, 2), (0, -0.5, 1)), *(((1, 1, 0.05), (0, 0, z)) for z in (0, 0.7, 1.4, 2)))
BALL = trimesh.creation.icosphere(2)
CUBE = boxes(((1, 1, 1), (0, 0, 0)))
SHAPES = {
    "lamp": LAMP,
    "chair": CHAIR,
    "screen": SCREEN,
    "shelf": SHELF,
    "ball": BALL,
    "cube": CUBE,
}


def y_up(mesh):
    return trimesh.Trimesh(mesh.vertices[:, [0, 2, 1]] * (1, 1, -1), mesh.faces, process=False)


@pytest.mark.parametrize("name", SHAPES)
def test_a_guess_is_right_or_none(name):
    mesh = SHAPES[name]
    assert plain_up_axis(mesh) == ("+z" if name == "lamp" else None)
    assert plain_up_axis(y_up(mesh)) == ("+y" if name == "lamp" else None)
    assert plain_up_axis(trimesh.Trimesh(mesh.vertices * 1e-3 + 7, mesh.faces)) == plain_up_axis(
        mesh
    )


def test_a_flat_mesh_says_nothing():
    flat = trimesh.Trimesh(np.eye(3) * (1, 1, 0), [[0, 1, 2]], process=False)
    assert plain_up_axis(flat) is None


def records(folder, shapes, *, up="+y", certain=False, suffix=".obj"):
    made = []
    for number, mesh in enumerate(shapes):
        path = folder / f"{number}{suffix}"
        mesh.export(path)
        made.append(
            Record(
                f"k{number}", "shape", "train", "a", mesh=path, up_axis=up,
                up_because="a reason", up_certain=certain,
            )
        )  # fmt: skip
    return made


def test_doubts_name_the_kind_and_the_other_axis(tmp_path):
    message = (
        "2 of 3 .obj that were looked at have a large flat base at the lower end of z: they look "
        "like +z up"
    )
    assert doubts(records(tmp_path, [LAMP, LAMP, CHAIR])) == [message]
    assert doubts(records(tmp_path, [LAMP, CHAIR, CHAIR])) == []  # too few
    assert doubts(records(tmp_path, [LAMP, LAMP, y_up(LAMP)])) == []  # not of one mind
    assert doubts(records(tmp_path, [LAMP] * 3, certain=True)) == []
    assert doubts(records(tmp_path, [LAMP] * 3, up="+z")) == []
    broken = records(tmp_path, [LAMP])
    assert broken[0].mesh is not None
    broken[0].mesh.write_text("f 1 2 3\n")
    assert doubts(broken) == []


def test_the_axis_is_told_by_suffix(tmp_path):
    made = records(tmp_path, [BALL, BALL]) + records(tmp_path, [BALL], up="+z", suffix=".stl")
    assert [str(one) for one in upright(made)] == [
        "+y for 2 .obj (a reason)", "+z for 1 .stl (a reason)",
    ]  # fmt: skip
    mixed = [made[0], *records(tmp_path, [BALL], up="+z")]
    assert upright(mixed)[0].axis == "+y and +z"
