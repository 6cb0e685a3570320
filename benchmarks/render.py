"""Speed of our renderer against pyvista (VTK's OpenGL rasteriser): views a second on one core.

    python benchmarks/render.py [--size 224] [--samples 2] [--repeats 3] [--json]
                                [--meshes benchmark 20k 200k 500k]

Same meshes, same number and size of views and samples a pixel, same run, the two by turns. Each
measurement is a process of its own that is bound to one core, with the thread counts of OpenMP, of
VTK and of Mesa's software OpenGL set to one. A renderer that cannot start is reported and left out
(pyvista dies where no OpenGL library is found). Timed is from vertices and faces in memory to
pixels in memory, all views of a shape, the least of the repeats after one shape to warm up.

`benchmark` is one shape of every class of the built-in benchmark; the others are subdivided solids.
pyvista does a little less work: a fixed camera instead of the silhouette's framing, and one window
kept for all shapes. Its samples are a larger window, averaged.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import trimesh
from trimesh.remesh import subdivide

from dataio.datasets.shapes.categories import CLASS_NAMES, build
from dataio.meshes.rendering import normalised, preset, render_views

VIEWS = 12
ELEVATION_DEGREES, VIEW_ANGLE_DEGREES = 30.0, 12.0
RENDERERS = ("ours", "pyvista")
SOLIDS: dict[str, tuple[Callable[[], trimesh.Trimesh], int]] = {  # solid, subdivisions
    "20k": (trimesh.creation.icosahedron, 5),
    "200k": (trimesh.creation.box, 7),
    "500k": (lambda: trimesh.convex.convex_hull(np.vstack([np.eye(3), -np.eye(3)])), 8),
}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VTK_SMP_BACKEND_IN_USE": "Sequential",
    "LP_NUM_THREADS": "0",  # Mesa's llvmpipe draws in the calling thread
    "VTK_DEFAULT_OPENGL_WINDOW": "vtkEGLRenderWindow",  # no display
}

Shape = tuple[np.ndarray, np.ndarray]  # vertices [V, 3] in the unit sphere, faces [F, 3]
Renderer = Callable[[Shape], np.ndarray]


def shapes(name: str) -> list[Shape]:
    """The shapes of one row of the table."""
    if name == "benchmark":
        made = [build(category, np.random.default_rng(0)) for category in CLASS_NAMES]
        return [(normalised(np.asarray(m.vertices)), np.asarray(m.faces)) for m in made]
    solid, times = SOLIDS[name]
    mesh = solid()
    vertices, faces = np.asarray(mesh.vertices, float), np.asarray(mesh.faces)
    for _ in range(times):
        vertices, faces = subdivide(vertices, faces)[:2]
    ball = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
    bumps = 1 + 0.2 * np.sin(6 * ball).prod(axis=1, keepdims=True)
    return [(normalised(ball * bumps), faces)]


def ours(size: int, samples: int) -> Renderer:
    """Our renderer with its default look."""
    spec = preset("mvcnn_v1", size=size, samples=samples, views=VIEWS)

    def render(shape: Shape) -> np.ndarray:
        return render_views(trimesh.Trimesh(*shape, process=False), spec)

    return render


def pyvista(size: int, samples: int) -> Renderer:
    """Off-screen VTK with flat shading and a headlight, the camera on the same ring."""
    import pyvista as vista  # pyright: ignore[reportMissingImports] - an extra

    side = size * samples
    plotter: Any = vista.Plotter(off_screen=True, window_size=[side, side], lighting="none")
    plotter.add_light(vista.Light(light_type="headlight"))
    plotter.background_color = "white"
    distance = 1 / np.sin(np.radians(VIEW_ANGLE_DEGREES / 2))
    elevation = np.radians(ELEVATION_DEGREES)

    def render(shape: Shape) -> np.ndarray:
        mesh = vista.PolyData.from_regular_faces(*shape)
        actor = plotter.add_mesh(mesh, color="white", ambient=0.3, diffuse=0.6)
        views = []
        for azimuth in np.arange(VIEWS) * 2 * np.pi / VIEWS:
            around = np.array([np.sin(azimuth), -np.cos(azimuth)]) * np.cos(elevation)
            eye = distance * np.array([*around, np.sin(elevation)])
            plotter.camera_position = [tuple(eye), (0, 0, 0), (0, 0, 1)]
            plotter.camera.view_angle = VIEW_ANGLE_DEGREES
            plotter.reset_camera_clipping_range()
            plotter.render()
            fine = plotter.screenshot(return_img=True)[:, :, 0]  # it is grey
            coarse = fine.reshape(size, samples, size, samples).mean(axis=(1, 3))
            views.append(np.rint(coarse).astype(np.uint8))
        plotter.remove_actor(actor)
        return np.stack(views)

    return render


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Mean faces and views a second of one renderer on the first of the meshes."""
    render = {"ours": ours, "pyvista": pyvista}[options.child](options.size, options.samples)
    render(shapes("20k")[0])
    chosen = shapes(options.meshes[0])
    seconds = []
    pictures: list[np.ndarray] = []
    for _ in range(options.repeats):
        start = time.perf_counter()
        pictures = [render(shape) for shape in chosen]
        seconds.append(time.perf_counter() - start)
    if any((views == views[0, 0, 0]).all() for views in pictures):
        raise SystemExit(f"{options.child}: drew nothing")
    faces = sum(len(shape[1]) for shape in chosen) / len(chosen)
    return {"faces": faces, "views_s": VIEWS * len(chosen) / min(seconds)}


def started(renderer: str, mesh: str, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a process of its own; `{"error": ...}` if that fails, however it does."""
    core = str(min(os.sched_getaffinity(0)))
    command = [sys.executable, __file__, "--child", renderer, "--core", core, "--meshes", mesh]
    for name in ("size", "samples", "repeats"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        return {"error": f"exit code {done.returncode}: {last}"}
    return json.loads(done.stdout.splitlines()[-1])


def print_table(result: dict[str, Any]) -> None:
    size, samples = result["size"], result["samples"]
    print(f"{VIEWS} views of {size}x{size}, {samples}x{samples} samples; views/s on one core\n")
    print(f"{'mesh':10} {'faces':>8} {'ours':>9} {'pyvista':>9} {'ours/pyvista':>13}")
    for name, row in result["meshes"].items():
        speeds = [f"{row[r]['views_s']:.1f}" if "views_s" in row[r] else "-" for r in RENDERERS]
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        faces = max(row[r].get("faces", 0) for r in RENDERERS)
        print(f"{name:10} {faces:8.0f} {speeds[0]:>9} {speeds[1]:>9} {ratio:>13}")
    errors = {
        f"{r}: {row[r]['error']}"
        for row in result["meshes"].values()
        for r in RENDERERS
        if "error" in row[r]
    }
    for error in sorted(errors):
        print(f"\nnot measured: {error}")


def compared(mesh: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row: what `started` gave of each renderer, and the ratio of the speeds."""
    row: dict[str, Any] = {r: started(r, mesh, options) for r in RENDERERS}
    speeds = [row[r].get("views_s") for r in RENDERERS]
    return {**row, "ratio": speeds[0] / speeds[1] if all(speeds) else None}


def main() -> None:
    names = ["benchmark", *SOLIDS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--samples", type=int, default=2, help="a pixel and axis")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--meshes", nargs="+", default=names, choices=names)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--child", choices=RENDERERS, help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        os.sched_setaffinity(0, {options.core})  # Embree builds in as many threads as cores
        print(json.dumps(measure(options)))
        return
    result: dict[str, Any] = {"views": VIEWS, "size": options.size, "samples": options.samples}
    result["meshes"] = {mesh: compared(mesh, options) for mesh in options.meshes}
    if options.json:
        print(json.dumps(result))
    else:
        print_table(result)
    if any("error" in row["ours"] for row in result["meshes"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
