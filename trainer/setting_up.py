"""What the loop starts from: a method that is ready to train, and the observers of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainer.building import DTYPES, build_method
from trainer.config import RunConfig
from trainer.engines import Strategy, evaluating, set_layout, set_passes
from trainer.inputs import FeatureStore, OpenData
from trainer.methods import Method
from trainer.runs import (
    Checkpoint,
    RunFolder,
    load_checkpoint,
    newest_checkpoint,
    require_same_run,
    start_from,
)
from trainer.synchronised import collectives
from trainer.validation import Validation
from trainer.watching import (
    Checkpoints,
    FiniteCheck,
    Observers,
    OnRecord,
    PhaseClock,
    Telemetry,
    TrainingLog,
)

log = logging.getLogger(__name__)


def describe(data: OpenData) -> dict[str, Any]:
    """What identifies a checkpoint's run."""
    images, shapes = (
        asdict(data.config.network.of(modality).resolved_preprocessing)
        for modality in ("image", "shape")
    )
    return {
        "identity": data.config.identity,
        "fingerprint": data.fingerprint,
        "classes": list(data.classes),
        "config": data.config.to_dict(),
        "preprocessing": images,
        **({} if shapes == images else {"shape_preprocessing": shapes}),
    }


def fresh_method(config: RunConfig, *, classes: Sequence[str], device: torch.device) -> Method:
    """The method with its first weights on ``device``, its trunks set up as the run wants them."""
    # Nothing in training draws from the process's generator. Its first state would be a random
    # one, and it is saved with every checkpoint.
    torch.manual_seed(config.training.seed)
    method = build_method(config, num_classes=len(classes), classes=classes).to(device)
    set_layout(
        method,
        channels_last=config.strategy.channels_last,
        device=device,
        weights=config.strategy.name == "ddp",
    )
    set_passes(method, config, device=device)
    return method


def start_or_continue(
    method: Method,
    strategy: Strategy,
    *,
    config: RunConfig,
    folder: RunFolder,
    description: dict[str, Any],
) -> tuple[nn.Module, Checkpoint | None]:
    """Prepare ``method`` for training; where the run was begun before, load its newest checkpoint.

    Called by all ranks. Rank 0 chooses the newest whole checkpoint that it sees.

    Args:
        description: of this run (:func:`describe`).

    Returns what the loop calls in the method's place, and the checkpoint that was loaded, if any.

    Raises:
        ConfigError: the folder holds another run, or ``training.init_from`` does not fit.
    """
    found = newest_checkpoint(folder.checkpoints) if collectives.rank() == 0 else None
    path = collectives.broadcast_object(None if found is None else str(found.path))
    # An engine takes over the weights that it finds, so weights come first, the engine second and
    # the state of its optimiser last.
    if path is None:
        if config.training.init_from is not None:
            other = Path(config.training.init_from)
            start_from(method, other, classes=description["classes"])
        return strategy.prepare(method, config.optimizer), None
    found = found or load_checkpoint(Path(path))
    require_same_run(folder.path, found.description, description)
    method.load_state_dict(found.state["method"])
    model = strategy.prepare(method, config.optimizer)
    strategy.load_state_dict(found.state)
    torch.set_rng_state(found.state["generator"])
    log.info("continuing at step %d from %s", found.step, path)
    return model, found


def read_frozen_stages(
    data: OpenData,
    method: Method,
    strategy: Strategy,
    *,
    beat: Callable[[], None],
) -> None:
    """Where stages are frozen, let ``data`` read their outputs; computes those of training that
    are not kept yet. Called by all ranks, which share the work, with the weights of the run."""
    config = data.config
    if not config.network.reads_features:
        return
    dtype = DTYPES[config.training.precision]
    data.read_features(FeatureStore(config, method, dtype=dtype, beat=beat))
    if not method.trains:  # its last fit reads a stream or does not, and only then computes them
        return
    with evaluating(method, strategy):
        for source in data.sources.values():
            for augmented in (True, False):
                if source.features is not None:
                    source.features(augmented)


class RunObservers(Observers):
    """The observers of a training run, by name, and told of each event in their order.

    Made by all ranks together; from here on earlier starts of the run can write no checkpoint.

    Args:
        state: gathers what a checkpoint holds; called by all ranks.
        description: of this run (:func:`describe`).
        on_record: called on rank 0 with every record of ``log.jsonl``.
        reason: why a launcher starts the run again, for ``attempts.jsonl``.
    """

    def __init__(
        self,
        data: OpenData,
        folder: RunFolder,
        *,
        method: Method,
        strategy: Strategy,
        state: Callable[[], dict[str, Any]],
        description: dict[str, Any],
        device: torch.device,
        clock: PhaseClock,
        on_record: OnRecord | None,
        reason: str | None,
    ) -> None:
        config, engine = data.config, data.config.strategy
        self.finite = FiniteCheck(
            method,
            learning=strategy.only,
            sharded=engine.name == "deepspeed" and engine.zero_stage == 3,
            whole_weights=strategy.whole_weights,
            delayed=device.type == "cuda",
        )
        self.validation = Validation(
            data,
            folder.validation,
            method=method,
            evaluating=partial(evaluating, method, strategy),
            device=device,
            dtype=DTYPES[config.training.precision],
            clock=clock,
        )
        self.checkpoints = Checkpoints(
            folder,
            config,
            description=description,
            state=state,
            scores=self.validation.known,
            clock=clock,
            reason=reason,
        )
        telemetry = Telemetry(
            folder.telemetry,
            clock=clock,
            writer=self.checkpoints.writer,
            device=device,
            bad_samples=data.bad_samples() if collectives.rank() == 0 else None,
        )
        log_file = TrainingLog(folder.log, on_record=on_record)
        # The state is checked first, then scored, and then saved with its scores.
        super().__init__(clock, self.finite, self.validation, self.checkpoints, log_file, telemetry)
