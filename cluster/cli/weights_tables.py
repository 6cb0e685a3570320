"""Weights at hand and weights converted, as plain values and as terminal tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.tables import standard_output
from cluster.terminal import say, shown
from trainer.converting import Conversion
from trainer.networks import OWN_TRUNKS, NamedWeights, installed_packages, named_weights

# Libraries by their distribution, and the extras of this project that install them.
_LIBRARIES = {"timm": "timm", "open_clip_torch": "clip", "peft": "lora", "safetensors": "weights"}
_USES = {
    "timm": "network.backbone=timm/NAME",
    "open_clip_torch": "network.backbone=open_clip/NAME",
    "peft": "network.train=lora",
    "safetensors": "weights in .safetensors files",
}


def describe_all() -> dict[str, Any]:
    """The trunks of this project, installed packages of weights, and libraries, as JSON values."""
    trunks = [
        {
            "backbone": name,
            "input_size": facts.size,
            "stages": list(facts.stages),
            "weights": [_weights(w) for w in named_weights(name)],
        }
        for name, facts in OWN_TRUNKS.items()
    ]
    packages = [{"weights": name, "backbone": b} for name, b in installed_packages().items()]
    libraries = [
        {
            "library": name,
            "version": _version(name),
            "for": _USES[name],
            "install": f"pip install 'img2shape[{extra}]'",
        }
        for name, extra in _LIBRARIES.items()
    ]
    return {"trunks": trunks, "packages": packages, "libraries": libraries}


def describe_trunk(backbone: str) -> dict[str, Any]:
    """The weights of a trunk that have a name, as JSON values.

    Raises:
        NetworkError: no such trunk, or its library is not installed.
    """
    return {"backbone": backbone, "weights": [_weights(w) for w in named_weights(backbone)]}


def _weights(weights: NamedWeights) -> dict[str, Any]:
    return {
        "weights": weights.name,
        "preprocessing": asdict(weights.preprocessing),
        "described": weights.preprocessing.describe(),
        "file": None if weights.file is None else str(weights.file),
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def describe_conversion(done: Conversion, *, backbone: str) -> dict[str, Any]:
    """A conversion as JSON values."""
    return {
        "file": str(done.file),
        "tensors": {name: list(shape) for name, shape in done.shapes.items()},
        "parameters": sum(map(math.prod, done.shapes.values())),
        "left_out": list(done.left_out),
        "preprocessing": asdict(done.preprocessing),
        "described": done.preprocessing.describe(),
        "notes": list(done.notes),
        "network": {"backbone": backbone, "weights": str(done.file)},
    }


def print_all(found: Mapping[str, Any]) -> None:
    """Three tables of :func:`describe_all`."""
    trunks = _table(
        ("network.backbone", "input", "stages", "network.weights"),
        caption="A path of a state dict fits each. img2shape weights list --backbone NAME shows a "
        "trunk's weights; NAME may be timm/NAME or open_clip/NAME.",
    )
    for trunk in found["trunks"]:
        size, stages = str(trunk["input_size"]), ", ".join(trunk["stages"])
        named = ", ".join(f"{w['weights']} ({_where(w)})" for w in trunk["weights"])
        _add(trunks, (trunk["backbone"], size, stages, named or "none by name"))
    packages = _table(("package of weights", "network.backbone"), caption="")
    for package in found["packages"]:
        _add(packages, (package["weights"], package["backbone"]))
    libraries = _table(("library", "version", "for"), caption="")
    for library in found["libraries"]:
        installed = library["version"] or f"not installed: {library['install']}"
        _add(libraries, (library["library"], installed, library["for"]))
    console = standard_output()
    console.print(trunks)
    if found["packages"]:
        console.print(packages)
    else:
        console.print("no package of weights is installed", markup=False)
    console.print(libraries)


def print_trunk(found: Mapping[str, Any]) -> None:
    """One line for each weights of :func:`describe_trunk`."""
    if not found["weights"]:
        text = f"{found['backbone']} has no weights by name; network.weights takes none or a path"
        standard_output().print(text, markup=False)
        return
    table = _table(
        ("network.weights", "pictures", "where"), caption=f"network.backbone={found['backbone']}"
    )
    for weights in found["weights"]:
        _add(table, (weights["weights"], weights["described"], _where(weights)))
    standard_output().print(table)


def _where(weights: Mapping[str, Any]) -> str:
    return "here" if weights["file"] else "a download"


def print_conversion(done: Mapping[str, Any]) -> None:
    """The layers of :func:`describe_conversion`, and the configuration that uses them."""
    table = _table(("tensor", "shape"), caption="")
    table.add_column("parameters", justify="right")
    for name, shape in done["tensors"].items():
        _add(table, (name, "×".join(map(str, shape)), f"{math.prod(shape):,}"))
    table.add_section()
    _add(table, ("total", "", f"{done['parameters']:,}"))
    standard_output().print(table)
    if done["left_out"]:
        say(f"left out, the trunk ends before: {', '.join(done['left_out'])}")
    for note in done["notes"]:
        say(f"note: {note}")
    path = shown(Path(done["file"]))
    say(f"preprocessing: {done['described']}\nwritten: {path}\nuse it with:")
    say(f"  network.backbone={done['network']['backbone']} network.weights={path}")


def _table(columns: Sequence[str], *, caption: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption=caption or None)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _add(table: Table, cells: Sequence[str]) -> None:
    table.add_row(*map(Text, cells))
