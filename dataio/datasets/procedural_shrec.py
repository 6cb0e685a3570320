"""The built-in benchmark's sketches and shapes in the layout of the SHREC'14 sketch track.

    SHREC14LSSTB_SKETCHES/<class>/{train,test}/<id>.png
    SHREC14LSSTB_TARGET_MODELS/M<6 digits>.off
    SHREC14_Sketch_Evaluation/SHREC14_SBR_{Model,Sketch_Train,Sketch_Test}.cla

Numbers run on over the classes. All shapes are one gallery, as in the track; the track has no
sketches to validate on, so those are left out. The files differ in form as downloaded ones do:
glued headers, comments, colours and line ends in the meshes, tabs and CRLF in the class files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from dataio.datasets import shrec
from dataio.datasets.procedural import BENCHMARK_VERSION, instances, made_benchmark
from dataio.datasets.procedural_files import Instance, is_filled, write_file
from dataio.datasets.shrec_tree import SHREC14
from dataio.datasets.stamp import read_stamp, write_stamp
from dataio.findings import Findings
from dataio.meshes import load_mesh
from dataio.records import DataError, Record

_STAMP = "procedural-shrec.json"
_LAYOUT_VERSION = 1  # changes whenever the files do
_FORMS = 5

Progress = Callable[[int, int], None]


def write_as_shrec(raw: Path, out: Path, *, progress: Progress | None = None) -> Path:
    """Write the benchmark in `raw`, made by `make_procedural`, a second time under `out`.

    `progress(done, total)` counts files. A call that was interrupted is continued by calling again;
    a finished folder is returned at once. Returns `out`, for the adapter `shrec14`.

    Raises DataError if `raw` holds no finished benchmark or has lost files, and if `out` holds
    another one or other data.
    """
    made = made_benchmark(raw)
    if made["benchmark_version"] != BENCHMARK_VERSION:
        raise DataError(
            f"procedural: {str(raw)!r} is of version {made['benchmark_version']}, expected "
            f"{BENCHMARK_VERSION}; make it again in another folder"
        )
    key = {"layout_version": _LAYOUT_VERSION, **made}
    if _is_complete(out, key):
        return out
    out.mkdir(parents=True, exist_ok=True)
    write_stamp(out / _STAMP, key, complete=False)
    files = _numbered(instances(made["size"], seed=made["seed"], style=made["style"]))
    for done, (instance, number) in enumerate(files, start=1):
        target = out / _place(instance, number)
        if not is_filled(target):
            write_file(target, _content(instance.files(raw)[-1], number))
        if progress:
            progress(done, len(files))
    for name, kept in (
        ("Model", {("shape", "train"), ("shape", "val"), ("shape", "test")}),
        ("Sketch_Train", {("sketch", "train")}),
        ("Sketch_Test", {("sketch", "test")}),
    ):
        chosen = [one for one in files if (one[0].stream, one[0].split) in kept]
        write_file(out / f"SHREC14_Sketch_Evaluation/SHREC14_SBR_{name}.cla", _cla(chosen))
    write_stamp(out / _STAMP, key, complete=True)
    return out


def records(root: Path) -> list[Record]:
    """What `write_as_shrec` wrote, read by the adapter `shrec14` under the name of the benchmark.

    Raises DataError if `root` holds no such benchmark or an unfinished one.
    """
    stamp = read_stamp(root / _STAMP)
    if stamp is None or not stamp["complete"]:
        raise DataError(f"procedural: no finished {_STAMP} in {str(root)!r}; run write_as_shrec")
    name = "procedural-shrec" if stamp["style"] == "a" else f"procedural-shrec-{stamp['style']}"
    return shrec.records(SHREC14, root, shrec.Shrec14Options(name=name), Findings(name))


def _is_complete(out: Path, key: dict[str, Any]) -> bool:
    stamp = read_stamp(out / _STAMP)
    if stamp is None:
        if out.is_dir() and any(out.iterdir()):
            raise DataError(
                f"procedural: {str(out)!r} holds files and no {_STAMP}; choose another folder"
            )
        return False
    if {name: value for name, value in stamp.items() if name != "complete"} != key:
        raise DataError(
            f"procedural: {str(out)!r} was made from another benchmark or by another version; "
            "choose another folder or delete this one"
        )
    return bool(stamp["complete"])


def _numbered(made: Iterable[Instance]) -> list[tuple[Instance, int]]:
    """The instances that have a place in the layout, each stream numbered from 1."""
    counts = {"sketch": 0, "shape": 0}
    numbered = []
    for instance in made:
        if instance.stream == "image" or (instance.stream, instance.split) == ("sketch", "val"):
            continue
        counts[instance.stream] += 1
        numbered.append((instance, counts[instance.stream]))
    return numbered


def _place(instance: Instance, number: int) -> str:
    if instance.stream == "shape":
        return f"SHREC14LSSTB_TARGET_MODELS/M{number:06d}.off"
    return f"SHREC14LSSTB_SKETCHES/{instance.category}/{instance.split}/{number}.png"


def _content(source: Path, number: int) -> bytes:
    """A sketch as it is, a mesh as .off."""
    if source.suffix == ".obj":
        return _off(load_mesh(source), form=number % _FORMS)
    try:
        return source.read_bytes()
    except OSError as error:
        raise DataError(
            f"{source}: cannot read ({error.strerror}); delete the benchmark and make it again"
        ) from error


def _off(mesh: trimesh.Trimesh, *, form: int) -> bytes:
    """ASCII OFF of a mesh, in one of the forms found in the wild; all are the same geometry."""
    counts = f"{len(mesh.vertices)} {len(mesh.faces)} 0"
    header = {
        1: [f"OFF{counts}"],  # glued, as in ModelNet
        2: ["OFF", "# exported by hand", "", f"{counts}  # vertices, faces, edges", ""],
    }.get(form, ["OFF", counts])
    colour = " 0.8 0.8 0.8" if form == 3 else ""
    vertices = (f"{x:.5f} {y:.5f} {z:.5f}" for x, y, z in np.asarray(mesh.vertices).tolist())
    faces = (f"3 {a} {b} {c}{colour}" for a, b, c in np.asarray(mesh.faces).tolist())
    line_end = "\r\n" if form == 4 else "\n"
    return line_end.join([*header, *vertices, *faces, ""]).encode("ascii")


def _cla(chosen: list[tuple[Instance, int]]) -> bytes:
    """A class file; the ids have as many digits as the files they stand for."""
    members: dict[str, list[str]] = {}
    for instance, number in chosen:
        digits = f"{number:06d}" if instance.stream == "shape" else str(number)
        members.setdefault(instance.category, []).append(digits)
    return "\r\n".join(_cla_lines(members)).encode("ascii")


def _cla_lines(members: dict[str, list[str]]) -> Iterator[str]:
    yield "PSB 1"
    yield f"{len(members)} {sum(map(len, members.values()))}"
    for name, ids in members.items():
        yield from ("", f"{name}\t0 {len(ids)}", *ids)
    yield ""
