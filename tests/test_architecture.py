"""The arrows between houses, rooms and files, and the rules of the house that a machine can check.

A house is one of the four top-level packages; a room is a package inside a house. The docstring of
a room ends with the line "May import: ..." that names the rooms of its own house and the files of
its house's root that it uses, and the other houses. Code outside of a room imports from the room,
and only the names that its ``__all__`` has.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "dataio": set(),
    "evalsuite": set(),
    "trainer": {"dataio", "evalsuite"},
    "cluster": {"dataio", "evalsuite", "trainer"},
}
LARGE = {"trainer.methods", "dataio.datasets"}  # one file for each paper, for each data set
MOST_FILES = 20


@cache
def modules() -> dict[str, Path]:
    """Every module of the four houses by its dotted name; a room's name is its ``__init__``."""
    found = {}
    for house in ALLOWED:
        for path in sorted((ROOT / house).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def is_room(name: str) -> bool:
    return modules()[name].name == "__init__.py"


def room_of(name: str) -> str:
    return name if is_room(name) else name.rpartition(".")[0]


def rooms() -> list[str]:
    return [name for name in modules() if is_room(name) and name not in ALLOWED]


@cache
def imports(name: str) -> tuple[tuple[str, str], ...]:
    """(module, name) of every import from the houses, at the top and inside functions."""
    found = []
    for node in ast.walk(ast.parse(modules()[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module in modules():
            found += [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name in modules()]
    return tuple(found)


def imported_files(name: str) -> Iterator[str]:
    """The modules that ``name`` imports from, submodules resolved."""
    for module, item in imports(name):
        target = f"{module}.{item}"
        yield target if target in modules() else module


def declared(room: str) -> set[str]:
    """What the docstring of ``room`` says that it may import."""
    text = " ".join((ast.get_docstring(ast.parse(modules()[room].read_text())) or "").split())
    found = re.search(r"May import: ([\w., ]+)\.$", text)
    assert found, f"{room}: its docstring ends without 'May import: ...'"
    return set(found[1].split(", ")) - {"nothing of this project"}


@cache
def exported(room: str) -> set[str]:
    for node in ast.parse(modules()[room].read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def needs(name: str) -> set[str]:
    """What ``name`` imports, in the words of a docstring: rooms, root files and houses."""
    own = room_of(name)
    found = set()
    for target in imported_files(name):
        room, house = room_of(target), target.partition(".")[0]
        if house != own.partition(".")[0]:
            found.add(house)
        elif room != own:
            found.add(target if room == "trainer" else room)  # its root has low and high files
    return found


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_what_it_says(room):
    used = set().union(*(needs(name) for name in modules() if room_of(name) == room))
    assert used == declared(room)


def test_no_circle_between_rooms():
    arrows = {room: declared(room) for room in rooms()}
    files = {name: needs(name) for name in modules() if room_of(name) in ALLOWED and "." in name}
    graphlib.TopologicalSorter(arrows | files).prepare()


def test_no_circle_between_files():
    arrows = {name: set(imported_files(name)) - {name} for name in modules() if not is_room(name)}
    graphlib.TopologicalSorter(arrows).prepare()


def test_other_rooms_import_only_what_a_room_names():
    for name in modules():
        for module, item in imports(name):
            room = room_of(module)
            if room in (room_of(name), *ALLOWED):
                continue
            assert module == room, f"{name} looks into {module}; import from {room}"
            assert item in exported(room), f"{name}: {room} does not name {item}"


def test_only_a_room_names_what_others_use():
    for name, path in modules().items():
        assert is_room(name) or "__all__" not in path.read_text(), name


def test_a_room_is_seldom_large():
    for room in rooms():
        held = [n for n in modules() if room_of(n) == room and n != room]
        assert room in LARGE or len(held) <= MOST_FILES, f"{room} holds {len(held)} files"


def test_the_checkers_see_a_circle_and_a_private_import():
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()
    assert "write_manifest" in exported("dataio.shards")
    assert "from_table" not in exported("dataio.shards")


def imported_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports, at module level and inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("folder", ALLOWED)
def test_imports_point_one_way(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    forbidden = set(ALLOWED) - ALLOWED[folder] - {folder}
    for path in files:
        assert not imported_packages(path) & forbidden, path


@pytest.mark.parametrize("folder", ["dataio", "evalsuite", "trainer"])
def test_only_cluster_knows_ray_and_terminals(folder):
    for path in sorted((ROOT / folder).rglob("*.py")):
        assert not imported_packages(path) & {"ray", "typer", "click", "rich"}, path


def test_only_collectives_calls_torch_distributed():
    for path in sorted((ROOT / "trainer").rglob("*.py")):
        if path.name != "collectives.py":
            text = path.read_text()
            assert "torch.distributed" not in text.replace("``torch.distributed``", ""), path


def test_the_checker_sees_a_wrong_import(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from cluster.cli.app import app\n    import ray.train\n")
    assert imported_packages(wrong) == {"cluster", "ray"}


def test_files_are_well_named():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert listed
    for name in listed:
        path = ROOT / name
        if not path.exists():
            continue
        assert path.stem not in {"utils", "helpers", "common", "misc"}, name
