"""The arrows between the folders, and the house rules a machine can check."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "dataio": set(),
    "evalsuite": set(),
    "trainer": {"dataio", "evalsuite"},
    "cluster": {"dataio", "evalsuite", "trainer"},
}


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
    wrong.write_text("def f():\n    from cluster.cli import app\n    import ray.train\n")
    assert imported_packages(wrong) == {"cluster", "ray"}


def test_files_are_small_and_well_named():
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
        if not name.startswith("tests/"):
            assert len(path.read_text().splitlines()) <= 400, name
