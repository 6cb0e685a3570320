"""The commands of README.md and docs/data.md are ones that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dataio.datasets.registry import adapter_names
from tests.command import ROOT, call
from trainer.config import load_config

PAGES = ("README.md", "docs/data.md")


def commands(page: str, start: str) -> list[str]:
    """Lines of code blocks that begin with `start`, without comments."""
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    lines = (line for block in blocks for line in block.splitlines())
    return [line.split("  #")[0].strip() for line in lines if line.startswith(start)]


def every(*starts: str) -> list[str]:
    return sorted({c for page in PAGES for start in starts for c in commands(page, start)})


PACKING = every("img2shape data pack ", "img2shape data render ")
TRAINING = every(*(f"img2shape {c} configs" for c in ("train", "data explain", "data replay")))


@pytest.mark.parametrize("command", PACKING)
def test_only_the_data_are_missing(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    args = shlex.split(command)[1:]
    root = Path(args[args.index("--root") + 1])
    told = call(capfd, *args).complaint
    assert str(root) in told or "no pix3d.json" in told, told
    root.mkdir(parents=True)
    told = call(capfd, *args).complaint
    assert re.search(r"[Ee]xpected", told), told
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize("command", TRAINING)
def test_configurations_and_overrides_are_read(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    args = shlex.split(command)
    config = next(arg for arg in args if arg.endswith(".yaml"))
    load_config(config, [arg for arg in args if "=" in arg])


def test_every_data_set_has_its_block():
    packed = {shlex.split(c)[3] for c in PACKING if c.startswith("img2shape data pack")}
    assert packed | {"procedural"} == set(adapter_names())


def test_every_data_command_is_described():
    from cluster.cli.data import data_app

    page = (ROOT / "docs/data.md").read_text()
    for command in data_app.registered_commands:
        assert f"data {command.name}" in page, command.name
