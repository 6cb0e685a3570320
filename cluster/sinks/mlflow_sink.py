"""An MLflow run: on the server that ``MLFLOW_TRACKING_URI`` names, else in the run folder."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.runs import write_json

EXPERIMENT = "img2shape"
PARAMETERS_AT_ONCE = 100  # a server takes no more
LONGEST = 500  # characters of a parameter's value; every version takes so many
STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow:
    """One MLflow run for a run folder; ``mlflow.json`` there has its id.

    MLflow cannot delete steps, so a continued run asks it for the last step of each number.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._facts = folder, folder / "mlflow.json"

    def start(self, *, name: str, config: Mapping[str, Any], resume_step: int) -> None:
        # By default, a server that is gone would hold up training for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        where = os.environ.get("MLFLOW_TRACKING_URI")
        if not where:
            # Newer versions write to files, without a database, only if this is set.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            where = (self._folder / "mlflow").absolute().as_uri()
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient(tracking_uri=where)
        known = self._known(where)
        if known is None:
            self._run, self._last = self._create(name, config, where), {}
        else:
            self._run, self._last = known, self._steps(known)
            self._client.update_run(known, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now_ms = int(time.time() * 1000)
        new = [
            Metric(name, value, now_ms, step)
            for name, value in values.items()
            if step > self._last.get(name, -1)
        ]
        if new:
            self._client.log_batch(self._run, metrics=new)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._client.set_terminated(self._run, status=STATUS[summary["status"]])

    def _known(self, where: str) -> str | None:
        """The id of this run in an earlier start, if that reported to the same place."""
        try:
            facts = json.loads(self._facts.read_text())
        except FileNotFoundError:
            return None
        return facts["run"] if facts["uri"] == where else None

    def _create(self, name: str, config: Mapping[str, Any], where: str) -> str:
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        number = experiment.experiment_id if experiment else None
        number = number or self._client.create_experiment(EXPERIMENT)
        run = self._client.create_run(number, run_name=name).info.run_id
        write_json(self._facts, {"run": run, "uri": where})
        self._log_parameters(run, _dotted(config))
        return run

    def _log_parameters(self, run: str, parameters: Sequence[tuple[str, Any]]) -> None:
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        shown = [Param(name, str(value)[:LONGEST]) for name, value in parameters]
        for first in range(0, len(shown), PARAMETERS_AT_ONCE):
            self._client.log_batch(run, params=shown[first : first + PARAMETERS_AT_ONCE])

    def _steps(self, run: str) -> dict[str, int]:
        names = self._client.get_run(run).data.metrics
        history = self._client.get_metric_history
        return {name: max(m.step for m in history(run, name)) for name in names}


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        inner = isinstance(value, dict)
        found += _dotted(value, f"{prefix}{name}.") if inner else [(prefix + name, value)]
    return found
