"""One run in one process, under ``torchrun``, or in Ray Train workers; the loop is the same."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cluster.restarts import Restarts, begin_attempt, mendable, no_retry_after_mistakes
from trainer.attempt import SupersededError
from trainer.collectives import broadcast_object, process_group, rank
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.data_sets import data_fingerprint
from trainer.loop import train
from trainer.run_folder import RunFolder
from trainer.streams import training_loader, training_sources
from trainer.telemetry import write_json

__all__ = ["RunFailed", "launch", "ray_session"]

log = logging.getLogger(__name__)
SAME_SIGNAL_SECONDS = 1.0  # torchrun passes on to its workers what the terminal has sent them too
SAVE_SECONDS = 60.0  # what Ctrl-C grants the workers for their last checkpoint
OnRecord = Callable[[dict[str, Any]], None]


class RunFailed(RuntimeError):
    """Workers died for a reason that is not the user's input."""


def launch(
    config: RunConfig, out: Path, *, workers: int, on_record: OnRecord | None = None
) -> RunFolder:
    """Train ``config`` in folder ``out`` and return the folder; continues the run it holds.

    Args:
        workers: 0 trains in this process; N > 0 starts N Ray Train workers. Under ``torchrun``
            the processes that exist are used and ``workers`` is ignored.
        on_record: called here with every logged step.

    Raises:
        ConfigError, DataError, NonFiniteError: bad options, bad data, diverged training.
        OSError: the folder cannot be written.
        RunFailed: a worker died.
        KeyboardInterrupt: Ctrl-C; a checkpoint of the last step was saved.
    """
    folder = RunFolder(out.absolute())
    # Bad data and selections are refused before anything is written.
    training_loader(config, training_sources(config)).close()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with process_group(timeout_seconds=config.training.timeout_seconds):
            if not _claimed_by_leader(config, folder):
                _train_here(config, folder, on_record=on_record)
        return folder
    folder.claim(config, fingerprint=data_fingerprint(config))
    if folder.finished:
        return folder
    if workers == 0:
        _train_here(config, folder, on_record=on_record)
    else:
        _train_on_ray(config, folder, workers, on_record)
    return folder


def _claimed_by_leader(config: RunConfig, folder: RunFolder) -> bool:
    """Rank 0 claims the folder; every rank learns whether its run is finished, or the refusal."""
    finished: bool | Exception = False
    if rank() == 0:
        try:
            folder.claim(config, fingerprint=data_fingerprint(config))
            finished = folder.finished
        except (ConfigError, OSError) as err:
            finished = err
    finished = broadcast_object(finished)
    if isinstance(finished, Exception):
        raise finished
    return finished


def _train_here(config: RunConfig, folder: RunFolder, *, on_record: OnRecord | None) -> None:
    with _stop_on_signal() as stopped:
        train(config, folder, on_record=on_record, stop=stopped.is_set)
    if stopped.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def _stop_on_signal() -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM asks the loop to save and leave; a later one interrupts."""
    stopped = threading.Event()
    first_seconds = 0.0

    def ask(number: int, frame: object) -> None:
        nonlocal first_seconds
        now_seconds = time.monotonic()
        if not stopped.is_set():
            first_seconds = now_seconds
            stopped.set()
        elif now_seconds - first_seconds > SAME_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ray_session() -> Iterator[None]:
    """A Ray cluster for the time of the block: the one that exists, else a local one."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # `print` stays `print` in workers
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "120")
    existing = "RAY_ADDRESS" in os.environ
    local = (
        {}
        if existing
        else {
            "include_dashboard": False,
            "object_store_memory": 256 * 1024**2,
            "num_cpus": max(2, os.cpu_count() or 1),
        }
    )
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        yield
    finally:
        ray.shutdown()


def _train_on_ray(
    config: RunConfig, folder: RunFolder, workers: int, on_record: OnRecord | None
) -> None:
    with ray_session():
        error = _error_file(folder)
        for left in (error, _stop_file(folder)):  # by a call that was killed
            left.unlink(missing_ok=True)
        failure: list[BaseException] = []
        # An event, not Thread.join: a join that Ctrl-C interrupts takes the thread for ended.
        done = threading.Event()

        def fit() -> None:
            try:
                _fit(config, folder, workers)
            except BaseException as err:
                failure.append(err)
            finally:
                done.set()

        restarts = Restarts(folder, limit=config.training.max_failures)
        threading.Thread(target=fit, daemon=True, name="ray-train").start()
        try:
            with _stop_on_signal() as stopped:
                _follow(
                    folder,
                    done,
                    on_record or (lambda record: None),
                    restarts=restarts,
                    stopped=stopped,
                )
        finally:
            _stop_file(folder).unlink(missing_ok=True)
        if stopped.is_set():
            raise KeyboardInterrupt
        if failure:
            _raise_failure(failure[0], error, restarts=restarts.count)


def _fit(config: RunConfig, folder: RunFolder, workers: int) -> None:
    import ray
    from ray.train import FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    gpus = ray.cluster_resources().get("GPU", 0) >= workers
    share = min(1.0, ray.cluster_resources().get("CPU", 1) / workers)
    TorchTrainer(
        _ray_worker,
        train_loop_config={
            "config": config.to_dict(),
            "folder": str(folder.path),
            "working_folder": str(Path.cwd()),
        },
        torch_config=TorchConfig(
            backend="nccl" if gpus else "gloo", timeout_s=int(config.training.timeout_seconds)
        ),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=gpus, resources_per_worker={"CPU": share}
        ),
        # Ray resumes a run name it has seen; our own checkpoints decide, so names are unique.
        run_config=RayRunConfig(
            name=f"{folder.path.name}-{config.identity}-{time.time_ns()}",
            storage_path=str(folder.path / "ray"),
            failure_config=FailureConfig(max_failures=config.training.max_failures),
            callbacks=[no_retry_after_mistakes()],
        ),
    ).fit()


def _ray_worker(task: dict[str, Any]) -> None:
    """Body of one Ray Train worker; Train has made the process group."""
    folder = RunFolder(Path(task["folder"]))
    if Path(task["working_folder"]).is_dir():
        os.chdir(task["working_folder"])  # relative paths mean what they mean to the user
    try:
        config = parse_config(task["config"], where=str(folder.config))
        if rank() == 0:
            begin_attempt(folder)
        train(config, folder, stop=_stop_file(folder).exists)
    except (ValueError, OSError, SupersededError) as err:
        if mendable(err):
            _tell(err, _error_file(folder))
        raise


def _stop_file(folder: RunFolder) -> Path:
    return folder.path / "stop"


def _error_file(folder: RunFolder) -> Path:
    return folder.path / "error.json"


def _tell(err: ValueError | OSError | SupersededError, file: Path) -> None:
    """Exception classes do not survive Ray's wrapping: the run folder carries the message."""
    told: dict[str, Any] = {"type": type(err).__name__, "message": str(err)}
    if isinstance(err, OSError):
        told["os_error"] = [err.errno, err.strerror, err.filename]
    with contextlib.suppress(OSError):  # a full disk has no room for this either
        write_json(file, told)


def _raise_failure(failure: BaseException, error: Path, *, restarts: int) -> None:
    if error.exists():
        told = json.loads(error.read_text())
        error.unlink()
        if "os_error" in told:
            raise OSError(*told["os_error"]) from None
        from cluster.errors import USER_ERRORS

        kind = {e.__name__: e for e in USER_ERRORS}.get(told["type"])
        raise (kind or RunFailed)(told["message"]) from None
    cause = getattr(failure, "controller_failure", None)
    if isinstance(cause, OSError) and mendable(cause):  # a disk too full for the file
        raise OSError(cause.errno, cause.strerror, cause.filename) from None
    lines = [line for line in str(failure).strip().splitlines() if line.strip()]
    log.debug("%s", failure)
    after = f" (restarts before: {restarts}, see training.max_failures)" if restarts else ""
    raise RunFailed(f"the workers failed{after}: {lines[-1] if lines else failure!r}") from None


def _follow(
    folder: RunFolder,
    done: threading.Event,
    on_record: OnRecord,
    *,
    restarts: Restarts,
    stopped: threading.Event,
) -> None:
    """Pass on restarts and the lines that rank 0 appends to ``log.jsonl`` until ``done``.

    Once ``stopped`` is set the workers are told to save and leave, and get ``SAVE_SECONDS``.
    """
    seen, last_seconds = -1, float("inf")
    while True:
        last = done.is_set() or time.monotonic() > last_seconds
        restarts.look()
        for record in _records(folder.log):
            if record["step"] > seen:
                seen = record["step"]
                on_record(record)
        if last:
            return
        if stopped.is_set() and last_seconds == float("inf"):
            _stop_file(folder).touch()
            last_seconds = time.monotonic() + SAVE_SECONDS
        done.wait(timeout=0.5)


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return [json.loads(line) for line in whole.splitlines()]
