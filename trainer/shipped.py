"""The YAML files that come with img2shape. They are found by name from any working directory.

Run descriptions lie in ``configs/<data set>/``, sweeps in ``configs/sweeps/``, the papers' tables
in ``configs/tables/`` and their figures in ``configs/figures/``. This file imports neither torch
nor YAML, so a mistyped name is refused at once.
"""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path

from trainer.errors import ConfigError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
RUNS, SWEEPS = "configs/", "configs/sweeps/"
_OF_MANY_RUNS = ("figures", "sweeps", "tables")
_PREFERRED = "procedural/"  # the built-in benchmark, which everybody can make
_SUGGESTIONS = 3


@lru_cache(maxsize=8)
def shipped_configs(folder: str = RUNS) -> dict[str, Path]:
    """Name -> file of everything below ``folder``, in order: ``procedural/astn`` below configs/.

    Sweeps, tables and figures are no run descriptions, so ``configs/`` leaves them out.
    """
    root = CONFIGS.parent / folder
    found = {p.relative_to(root).with_suffix("").as_posix(): p for p in root.rglob("*.yaml")}
    many = tuple(f"{name}/" for name in _OF_MANY_RUNS)
    return {n: found[n] for n in sorted(found) if folder != RUNS or not n.startswith(many)}


def configs_named(name: str, folder: str = RUNS) -> list[str]:
    """The names that ``name`` may stand for, the best first.

    ``own/astn`` and ``configs/own/astn.yaml`` are one name. ``astn`` stands for every file of that
    name in a subfolder; the one of the built-in benchmark comes first.
    """
    bare = name.removeprefix(folder).removesuffix(".yaml")
    known = shipped_configs(folder)
    if bare in known:
        return [bare]
    same = [other for other in known if other.endswith(f"/{bare}")]
    return sorted(same, key=lambda other: not other.startswith(_PREFERRED))  # stable


def find_config(given: str | Path, folder: str = RUNS) -> Path:
    """The file that ``given`` names: a path that exists, else a shipped file (`configs_named`).

    Args:
        folder: where the shipped files of this kind lie.

    Raises:
        ConfigError: there is neither; the message names the nearest shipped files.
    """
    path = Path(given)
    if path.exists() and not path.is_dir():
        return path
    named = configs_named(str(given), folder)
    if named:
        return shipped_configs(folder)[named[0]]
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; give a YAML file inside it")
    raise ConfigError(f"{path}: no such file; {folder} holds ready ones{_nearest(path, folder)}")


def _nearest(path: Path, folder: str) -> str:
    known = shipped_configs(folder)
    wanted = path.with_suffix("").as_posix().removeprefix(folder)
    close = difflib.get_close_matches(wanted, known, n=_SUGGESTIONS)
    stems = difflib.get_close_matches(path.stem, {n.rpartition("/")[2] for n in known}, n=1)
    close += [n for n in known if n not in close and n.rpartition("/")[2] in stems]
    if "/" not in wanted:
        close.sort(key=lambda name: not name.startswith(_PREFERRED))  # stable
    listed = ", ".join(close[:_SUGGESTIONS])
    if listed:
        return f"; did you mean {listed}?"
    return "; `img2shape configs` lists them" if folder == RUNS else ""
