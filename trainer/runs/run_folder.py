"""The run folder: the files of one run, and which run may write there."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from trainer.config import ConfigError, RunConfig, load_config
from trainer.runs.attempt import LOCK_NAME, run_lock
from trainer.runs.records import naming, write_json, write_text

PACKAGES = ("img2shape", "torch", "torchvision", "ray", "webdataset", "faiss-cpu", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """Paths inside one run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def facts(self) -> Path:
        return self.path / "run.json"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def validation(self) -> Path:
        return self.path / "validation.jsonl"

    @property
    def telemetry(self) -> Path:
        """The current state of the run (:mod:`trainer.watching.telemetry`)."""
        return self.path / "telemetry.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def embeddings(self) -> Path:
        return self.path / "embeddings"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    def claim(self, config: RunConfig, *, fingerprint: str, dataset: str | None = None) -> None:
        """Create the folder for this run, or check that it holds this run already.

        Args:
            fingerprint: of the data that it trains on.
            dataset: what reports call these data; None takes ``data.dataset``.

        Raises:
            ConfigError: it holds a run with another identity or data, or unrelated files.
            OSError: it cannot be written.
        """
        facts = self.read() if self.facts.exists() else None
        if facts is not None:
            self._require_same_run(facts, config, fingerprint=fingerprint)
        elif self.path.exists() and not self._is_empty():
            raise ConfigError(f"{self.path}: not empty and not a run folder; use another --out")
        with naming(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        # run.json makes this a run folder, so it is written first: after an interruption the next
        # call can claim the folder.
        self.update(
            name=self.path.name,
            method=config.method_name,
            dataset=dataset or config.data.dataset,
            identity=config.identity,
            seed=config.training.seed,
            steps=config.training.steps,
            status="finished" if facts and facts.get("status") == "finished" else "started",
            data={"root": config.data.root, "fingerprint": fingerprint},
            versions=_versions(),
        )
        write_text(self.config, config.to_yaml())

    def _require_same_run(
        self, facts: Mapping[str, Any], config: RunConfig, *, fingerprint: str
    ) -> None:
        same = facts["identity"] == config.identity
        theirs = {
            "identity": facts["identity"],
            "fingerprint": facts["data"]["fingerprint"],
            "config": config.to_dict() if same else load_config(self.config).to_dict(),
        }
        mine = {"identity": config.identity, "fingerprint": fingerprint}
        require_same_run(self.path, theirs, {**mine, "config": config.to_dict()})

    def _is_empty(self) -> bool:
        """Whether there is no file except those of an interrupted claim."""
        try:
            return all(
                p.name == LOCK_NAME or p.name.startswith(f".{self.facts.name}.")
                for p in self.path.iterdir()
            )
        except NotADirectoryError:
            raise ConfigError(f"{self.path}: is a file; use another --out") from None

    @property
    def finished(self) -> bool:
        """Whether the run has reached its last step and has a checkpoint."""
        kept = any(self.checkpoints.glob("step-*"))
        return kept and self.facts.exists() and self.read().get("status") == "finished"

    def read(self) -> dict[str, Any]:
        """The facts in ``run.json``.

        Raises:
            ConfigError: the folder is not a run.
        """
        try:
            facts = json.loads(self.facts.read_text())
        except FileNotFoundError:
            raise ConfigError(
                f"{self.path}: not a run folder (no run.json); `img2shape train` makes one"
            ) from None
        except ValueError as err:
            raise ConfigError(f"{self.facts}: not readable ({err}); use another folder") from None
        known = isinstance(facts, dict) and isinstance(facts.get("data"), dict)
        if not (known and "identity" in facts and "fingerprint" in facts["data"]):
            raise ConfigError(f"{self.facts}: not the facts of a run; use another folder")
        return facts

    def update(self, **facts: Any) -> None:
        """Merge ``facts`` into ``run.json``, atomically."""
        with run_lock(self.path):
            current = self.read() if self.facts.exists() else {}
            write_json(self.facts, {**current, **facts})


def require_same_run(path: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Compare ``identity``, data ``fingerprint`` and ``config`` of what is there and what is asked.

    Raises:
        ConfigError: they belong to different runs; the message names the differing fields.
    """
    if theirs["identity"] != mine["identity"]:
        names = differences(theirs["config"], mine["config"])
        remedy = "use another --out"
        if names == ["training.steps"]:
            remedy = _more_steps(path, theirs["config"], mine["config"])
        raise ConfigError(f"{path}: holds another run, differing in {', '.join(names)}; {remedy}")
    if theirs["fingerprint"] != mine["fingerprint"]:
        raise ConfigError(
            f"{path}: was trained on other data than data.root "
            f"'{mine['config']['data']['root']}' holds now; use another --out or the original data"
        )


def _more_steps(path: Path, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> str:
    """What to do about another number of steps. Learning rate, ramps and rounds follow the share of
    steps done, so a run of more steps is not the same run continued."""
    done, wanted = theirs["training"]["steps"], mine["training"]["steps"]
    if wanted <= done:
        return f"it has {done}; use another --out"
    return (
        f"its schedule is made for {done}. To train its network further, start a new run from it: "
        f"training.init_from={path} training.steps={wanted - done}, with another --out"
    )


def differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Dotted names of the entries in which two nested dictionaries differ."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [prefix]
    keys = sorted(a.keys() | b.keys())
    return [
        name
        for key in keys
        for name in differences(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else key)
    ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
