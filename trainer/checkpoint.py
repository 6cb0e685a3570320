"""Checkpoints: atomic, hash-checked, independent of the number of workers.

A checkpoint is a folder ``step-00000200/`` with ``state.pt`` (weights and method state, optimiser
state by parameter name, generator state) and ``checkpoint.json`` (step, run identity, data
fingerprint, config, hash of ``state.pt``). The folder is written under a temporary name, flushed
to disk and renamed; older ones are removed only afterwards. Loading never runs pickled code.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.config import ConfigError
from trainer.telemetry import naming, write_json

__all__ = [
    "Checkpoint",
    "load_checkpoint",
    "newest_checkpoint",
    "open_checkpoint",
    "save_checkpoint",
]

log = logging.getLogger(__name__)
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and whose hash was right."""

    path: Path
    step: int
    description: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, state: dict[str, Any], *, step: int, description: dict[str, Any], keep: int
) -> Path:
    """Write ``folder/step-XXXXXXXX`` and keep the newest ``keep`` checkpoints.

    Args:
        state: tensors and plain values, readable with ``weights_only``.
        description: JSON values: identity, data fingerprint, config.

    Raises:
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(final):
            temporary.mkdir(parents=True)
            with (temporary / "state.pt").open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            facts = {"format": FORMAT, "step": step, "sha256": _sha256(temporary / "state.pt")}
            write_json(temporary / "checkpoint.json", {**facts, **description})
            if final.exists():  # a run that was interrupted right after this very step
                shutil.rmtree(final)
            os.replace(temporary, final)
            _sync_folder(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    for old in _by_age(folder)[keep:]:
        shutil.rmtree(old)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        ConfigError: it is not a checkpoint, is torn or altered, or has another format.
    """
    try:
        description = json.loads((path / "checkpoint.json").read_text())
        found, expected = description["format"], description["sha256"]
        digest = _sha256(path / "state.pt")
    except (OSError, ValueError, KeyError, TypeError) as err:
        reason = f"{type(err).__name__}: {err}"
        raise ConfigError(f"{path}: not a whole checkpoint ({reason}); choose another") from None
    if found != FORMAT:
        raise ConfigError(f"{path}: checkpoint format {found}, this version reads {FORMAT}")
    if digest != expected:
        raise ConfigError(f"{path}: state.pt does not match its hash; choose another checkpoint")
    state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
    return Checkpoint(path, int(description["step"]), description, state)


def open_checkpoint(path: Path) -> Checkpoint:
    """The newest whole checkpoint of a run folder, or the checkpoint that ``path`` is.

    Raises:
        ConfigError: ``path`` is neither, or holds no whole checkpoint.
    """
    if (path / "checkpoint.json").exists():
        return load_checkpoint(path)
    if not (path / "run.json").exists():
        raise ConfigError(
            f"{path}: neither a run folder nor a checkpoint; `img2shape train` makes one"
        )
    folder = path / "checkpoints"
    found = newest_checkpoint(folder)
    if found is not None:
        return found
    if any(folder.glob("step-*")):
        raise ConfigError(f"{path}: no checkpoint is whole; delete {folder} and train again")
    raise ConfigError(f"{path}: has no checkpoint yet; train it with `img2shape train`")


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in ``folder`` that is whole, or None; damaged ones are passed over."""
    for path in _by_age(folder):
        try:
            return load_checkpoint(path)
        except ConfigError as err:
            log.warning("%s (this one is passed over)", err)
    return None


def _by_age(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
