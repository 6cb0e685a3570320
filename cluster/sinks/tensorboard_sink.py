"""TensorBoard event files, written through tensorboardX, which comes with Ray."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


class TensorBoard:
    """Event files in ``tensorboard`` of the run folder, one for each start of the run.

    A later file tells TensorBoard to drop the steps from its first one on: a killed process may
    have logged steps beyond its checkpoint, which must not be drawn twice.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"

    def start(self, *, name: str, config: Mapping[str, Any], resume_step: int) -> None:
        from tensorboardX import SummaryWriter

        earlier = len(list(self._folder.glob("events.*")))
        self._first = resume_step if earlier else 0
        # Names have the time in whole seconds, in which two starts may fall.
        self._writer = SummaryWriter(
            str(self._folder),
            purge_step=resume_step if earlier else None,
            filename_suffix=f".{earlier}",
        )
        if not earlier:
            text = yaml.safe_dump(dict(config), sort_keys=False)
            self._writer.add_text("config", "    " + text.replace("\n", "\n    "), 0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step < self._first:
            return
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a killed process loses what is not in the file

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._writer.close()
