"""Checkpoints: atomic, hash-checked, independent of the number of workers.

A checkpoint is a folder ``step-00000200/`` with ``state.pt`` (weights and method state, optimiser
state by parameter name, generator state) and ``checkpoint.json`` (step, attempt, run identity, data
fingerprint, config, scores where the state was validated, hashes of ``state.pt`` and of itself).
The folder is written under a temporary name, flushed to disk and renamed; older ones are removed
only afterwards. A torn or altered checkpoint is noticed and passed over. Loading never runs pickled
code.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from dataio.atomic import sync_folder
from dataio.names import nearest
from trainer.choosing import SELECTIONS
from trainer.config import ConfigError
from trainer.runs.attempt import Attempt
from trainer.runs.checkpoint_facts import FACTS, UnusableError, read_facts, write_facts
from trainer.runs.records import naming
from trainer.runs.retention import Retention, Scored, best_first

log = logging.getLogger(__name__)
STATE = "state.pt"
REPLACED = ".replaced"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and whose hash was right."""

    path: Path
    step: int
    description: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    *,
    step: int,
    description: dict[str, Any],
    keep: Retention,
    attempt: Attempt | None = None,
    scores: Mapping[str, float] | None = None,
) -> Path:
    """Write ``folder/step-XXXXXXXX``; of the checkpoints up to this one those of ``keep`` stay.

    Args:
        state: tensors and plain values, readable with ``weights_only``.
        description: JSON values: identity, data fingerprint, config.
        attempt: the start of training that writes; None where no other process can write.
        scores: of this state by metric, where it was validated.

    Raises:
        OSError: the disk is full or not writable; nothing is left under the final name.
        SupersededError: a later attempt has taken over; no checkpoint was changed.
    """
    number = attempt.number if attempt else 0
    final = folder / f"step-{step:08d}"
    temporary = folder / f".{final.name}.{number}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(final):
            temporary.mkdir(parents=True)
            _write_state(temporary / STATE, state)
            facts = {"step": step, "sha256": _sha256(temporary / STATE), "attempt": number}
            scored = {"scores": dict(scores)} if scores else {}
            write_facts(temporary, {**facts, **description, **scored})
            sync_folder(temporary)
            with attempt.holding() if attempt else nullcontext():
                _put(temporary, final)
                # Newer ones are damaged, since this run was resumed below them: do not count them.
                written = [p for p in _by_age(folder) if p.name <= final.name]
                for old in keep.expendable(written):
                    _remove(old)
    except OSError:
        if attempt:  # a later attempt removes the files that this one is writing
            attempt.require_newest()
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def clear_leftovers(folder: Path, *, attempt: Attempt) -> None:
    """Remove what killed or superseded writers left in ``folder``; undo an unfinished exchange.

    All of it is by earlier attempts, which may not write any more.
    """
    if not folder.is_dir():
        return
    with attempt.holding():
        for left in folder.glob(".step-*"):
            final = folder / left.name[1:].split(".")[0]
            if left.name.endswith(REPLACED) and not final.exists():
                os.replace(left, final)
            else:
                shutil.rmtree(left, ignore_errors=True)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        ConfigError: it is not a checkpoint, is torn or altered, or has another format.
    """
    try:
        return _read(path)
    except UnusableError as err:
        raise ConfigError(f"{path}: {err}; choose another checkpoint") from None


def open_checkpoint(path: Path) -> Checkpoint:
    """The newest whole checkpoint of a run folder, or the checkpoint that ``path`` is.

    Raises:
        ConfigError: ``path`` is neither, or holds no whole checkpoint.
    """
    if (path / FACTS).exists():
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


def open_selected(path: Path, select: str) -> tuple[Checkpoint, Scored | None]:
    """The whole checkpoint that ``select`` chooses, and the score that chose it.

    Args:
        path: a run folder; with ``last`` a checkpoint may be given instead.
        select: ``last`` takes the newest; ``oracle`` the best by a metric on labels of what is
            evaluated; a criterion of :mod:`trainer.choosing.criteria` the best by it.

    Raises:
        ConfigError: no such selection; ``path`` is no run folder; or no whole checkpoint has the
            score.
    """
    if select not in SELECTIONS:
        raise ConfigError(f"--select: no selection '{select}'{nearest(select, SELECTIONS)}")
    if select == "last":
        return open_checkpoint(path), None
    if not (path / "run.json").exists():
        raise ConfigError(f"{path}: not a run folder; --select chooses among a run's checkpoints")
    oracle = select == "oracle"
    ranked = best_first(_by_age(path / "checkpoints"), None if oracle else select)
    found = _first_whole([scored.path for scored in ranked])
    if found is None:
        key = "validation.metric" if oracle else f"validation.criterion={select}"
        raise ConfigError(
            f"{path}: no checkpoint has a score for --select {select}; train with validation.every "
            f"and {key} set, or take the newest one with --select last"
        )
    return found, next(scored for scored in ranked if scored.path == found.path)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint in ``folder`` that is whole, or None.

    Damaged ones are passed over; a warning for each names it and the one used instead.
    """
    return _first_whole(_by_age(folder))


def _first_whole(paths: Sequence[Path]) -> Checkpoint | None:
    found, reasons = None, {}
    for path in paths:
        try:
            found = _read(path)
            break
        except UnusableError as err:
            reasons[path] = err
    instead = f"using {found.path}" if found else "no whole checkpoint is left"
    for path, reason in reasons.items():
        log.warning("%s: %s; passed over, %s", path, reason, instead)
    return found


def _read(path: Path) -> Checkpoint:
    description = read_facts(path)
    try:
        digest = _sha256(path / STATE)
    except OSError as err:
        raise UnusableError(f"not a whole checkpoint ({type(err).__name__}: {err})") from None
    if digest != description["sha256"]:
        raise UnusableError(f"{STATE} does not match its hash")
    try:
        state = torch.load(path / STATE, map_location="cpu", weights_only=True)
    except UnpicklingError:  # objects of other classes would need code to be run
        raise UnusableError(f"{STATE} holds more than tensors and plain values") from None
    return Checkpoint(path, description["step"], description, state)


def _write_state(path: Path, state: dict[str, Any]) -> None:
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as err:
            # torch closes its archive after a failed write, and fails again.
            if isinstance(err.__context__, OSError):
                raise err.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


def _put(temporary: Path, final: Path) -> None:
    """Rename ``temporary`` to ``final``; an earlier ``final`` stays until that is on disk."""
    aside = final.with_name(f".{final.name}{REPLACED}")
    if final.exists():  # damaged, or of a run that was interrupted right after this step
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(final, aside)
    os.replace(temporary, final)
    sync_folder(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint so that no reader ever sees a part of it under its name."""
    aside = checkpoint.with_name(f".{checkpoint.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    os.replace(checkpoint, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _by_age(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
