"""A Weights & Biases run: on its server with a key, else in files that ``wandb sync`` uploads."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.runs import write_json

PROJECT = "img2shape"


class WeightsAndBiases:
    """One run for a run folder; ``wandb.json`` there has its id and the last step of each number.

    Without ``WANDB_API_KEY`` it works offline. Steps that were sent cannot be taken back, and an
    offline run cannot ask for them, so the file tells which are not to be sent again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._facts = folder, folder / "wandb.json"

    def start(self, *, name: str, config: Mapping[str, Any], resume_step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        try:
            facts = json.loads(self._facts.read_text())
        except FileNotFoundError:
            facts = {"run": uuid.uuid4().hex[:12], "steps": {}}
        self._id, self._last = facts["run"], facts["steps"]
        self._note()
        offline = not os.environ.get("WANDB_API_KEY")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self._id,
            name=name,
            dir=str(self._folder),
            config=dict(config),
            resume="allow",
            mode="offline" if offline else "online",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        new = {k: value for k, value in values.items() if step > self._last.get(k, -1)}
        if new:
            self._run.log(new, step=step)
            self._last |= dict.fromkeys(new, step)
            self._note()

    def finish(self, summary: Mapping[str, Any]) -> None:
        for name, value in summary.items():
            self._run.summary[name] = value
        self._run.finish(exit_code=0 if summary["status"] == "finished" else 1)

    def _note(self) -> None:
        write_json(self._facts, {"run": self._id, "steps": self._last})
