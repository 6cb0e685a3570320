"""The command line ``img2shape``."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cluster.cli.configurations import Config, DataFolder, configs, read_run
from cluster.cli.data import data_app
from cluster.cli.doctor import doctor
from cluster.cli.evaluation import evaluation_app
from cluster.cli.kubernetes import kubernetes_app
from cluster.cli.ledger import ledger_app
from cluster.cli.monitoring import monitoring_app
from cluster.cli.sweeps import sweep_app
from cluster.cli.weights import weights_app
from cluster.terminal import Json, Overrides, only_json, say, shown

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
# typer brings its own copy of click or takes the installed one, by version: this is its class.
USAGE_ERROR: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(add_completion=False)
app.add_typer(data_app, name="data")
app.add_typer(ledger_app, name="ledger")
app.add_typer(kubernetes_app, name="k8s")
app.add_typer(weights_app, name="weights")
app.add_typer(evaluation_app)  # without a name: its commands stand beside train
app.add_typer(sweep_app)
app.add_typer(monitoring_app)
app.command(epilog="Example: img2shape doctor astn --workers 2")(doctor)
app.command(epilog="Example: img2shape configs own/astn > mine.yaml")(configs)


def _require_number_or_range(text: str) -> str:
    """Refuse bad syntax before the description is read; `parse_workers` checks the numbers."""
    if not re.fullmatch(r"\d+(-\d+)?", text.strip()):
        raise typer.BadParameter(f"'{text}': expected a number or a range, like 4 or 1-4")
    return text


Workers = Annotated[
    str,
    typer.Option(
        metavar="N|MIN-MAX",
        callback=_require_number_or_range,
        help="Ray Train workers; 0 trains in this process, without Ray. With a range, the group "
        "has as many as the cluster can hold: fewer after a loss, more again when there is room.",
    ),
]


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"img2shape {version('img2shape')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Find unlabelled 3D shapes from photos and sketches: train, evaluate, report."""


@app.command(
    epilog="Example: img2shape train configs/procedural/astn.yaml training.seed=1 "
    "method.align=instance --workers 2 --out runs/astn-1; with your own data: img2shape train "
    "own/astn --data data/mine. `img2shape configs` lists the shipped descriptions."
)
def train(
    config: Config,
    overrides: Overrides = None,
    data: DataFolder = None,
    workers: Workers = "0",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the run.", show_default="runs/<method>-<identity>"),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option(help="Also report to tensorboard, mlflow or wandb; may be given again."),
    ] = None,
) -> None:
    """Train one run. When --out holds this run already, training continues there.

    Every key of the description can be overridden, with dots: method.alpha=0.5,
    training.steps=200, data.root=data/mine. `img2shape model CONFIG` shows the network.
    """
    run = read_run(config, overrides, data)
    from cluster.training import parse_workers, train_run

    size = parse_workers(workers)
    folder = train_run(run, out or _default_folder(run), workers=size, sinks=sink or ())
    say(f"trained: {folder.path}\nnext: img2shape eval {shown(folder.path)}")


@app.command()
def model(
    config: Config,
    overrides: Overrides = None,
    data: DataFolder = None,
    as_json: Json = False,
) -> None:
    """Count parameters and multiply-adds, layer by layer.

    The number of classes comes from the data; without data, from data.num_classes.
    """
    with only_json(as_json) as emit:
        run = read_run(config, overrides, data)
        from cluster.complexity import model_complexity
        from trainer.building import trunk_cautions

        for problem, remedy in trunk_cautions(run):
            logging.getLogger(__name__).warning("%s; %s", problem, remedy)
        result = model_complexity(run)
        emit(result)
    if not as_json:
        from cluster.tables import print_layers

        print_layers(result)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with its options.")] = None,
    as_json: Json = False,
) -> None:
    """List the methods, or show one with its streams, defaults and every option of method.*.

    Methods that other distributions bring (entry points in img2shape.methods) are listed too.
    """
    from trainer.method_reference import describe, describe_all

    with only_json(as_json) as emit:
        result: Any = describe(name) if name else {"methods": describe_all()}
        emit(result)
    if not as_json:
        from cluster.tables import print_method, print_methods

        print_method(result) if name else print_methods(result["methods"])


@app.command(epilog="Example: img2shape verify --method astn --method dann --world-sizes 2,5")
def verify(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Of the run description, such as network.train=head."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(help="A method, or all; may be given again.", show_default="all"),
    ] = None,
    world_sizes: Annotated[
        str, typer.Option(metavar="W,W", help="Numbers of processes to compare with one.")
    ] = "1,2,3",
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            help="ddp, deepspeed-0 .. deepspeed-3 (ZeRO stages), or all; may be given again.",
            show_default="ddp",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="float64 | float32", show_default="float64, for deepspeed float32"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A packed data set.", show_default="data/procedural-smoke, made"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Prove that W processes train exactly as one does: gradients, losses and state.

    Every method trains a few steps in W processes, with uneven batches and with processes that get
    no sample, and again in a single process without a strategy. Exit code 1 means that they differ
    by more than the tolerance (1e-9 in float64, 1e-4 in float32).
    """
    from cluster.training import verify as job

    with only_json(as_json) as emit:
        names = job.parse_methods(method or ["all"])
        sizes = job.parse_world_sizes(world_sizes)
        strategies = job.parse_strategies(strategy or ["ddp"])
        precision = job.parse_precision(dtype)
        result = job.verify(
            names,
            world_sizes=sizes,
            strategies=strategies,
            precision=precision,
            data=data or _built_in_data(),
            overrides=overrides or [],
        )
        emit(result)
    if not as_json:
        from cluster.tables import print_verification

        print_verification(result)
    if not result["ok"]:
        _fail(job.shortfalls(result), 1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the demo's runs.")] = Path("runs/demo"),
    workers: Workers = "2",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Small data and short training: it runs, its numbers mean nothing."
        ),
    ] = False,
) -> None:
    """Make the built-in benchmark, train and evaluate three methods on it and write a report."""
    from cluster.cli.demo import run_demo
    from cluster.training import parse_workers

    run_demo(out, workers=parse_workers(workers), quick=quick)


@app.command(epilog="Example: img2shape real --library Lamps.sh3f")
def real(
    library: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="A furniture library of Sweet Home 3D, or a folder of them.",
            show_default="Debian's sweethome3d-furniture, fetched into data/furniture",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs.", show_default="runs/real, or runs/real-LIBRARY"),
    ] = None,
) -> None:
    """Fetch furniture with real pictures, pack it, train and evaluate three methods, and report.

    Everything that is already there is kept, so the same command continues after an interruption.
    """
    from cluster.cli.real import run_real

    run_real(out, library=library)


def _built_in_data() -> Path:
    from cluster.data_jobs import make_benchmark

    folder = Path("data") / "procedural-smoke"
    make_benchmark(folder, size="smoke", seed=0)
    return folder


def _default_folder(run: Any) -> Path:
    return Path("runs") / f"{run.method_name}-{run.identity}"


def main() -> NoReturn:
    """Entry point: one-line errors, exit codes 0, 1 (failure), 2 (bad input), 130 (Ctrl-C)."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as err:
        message, code = _explain(err)
        if code == 1 and os.environ.get("IMG2SHAPE_DEBUG"):
            raise
        _fail(message, code)
    if code == INTERRUPTED:  # newer versions of typer return this for Ctrl-C
        _fail("interrupted; the same command, given again, continues", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(err: Exception) -> tuple[str, int]:
    """The line to print and the exit code."""
    if isinstance(err, USAGE_ERROR):
        return _explain_usage_error(err), 2
    from trainer.errors import ConfigError

    if isinstance(err, ConfigError):  # the common one: it need not wait for the import of torch
        return str(err), 2
    from cluster.errors import USER_ERRORS

    if isinstance(err, USER_ERRORS):
        return str(err), 2
    if isinstance(err, OSError):
        return _explain_os_error(err), 2
    return f"{type(err).__name__}: {err} (IMG2SHAPE_DEBUG=1 shows where)", 1


def _explain_usage_error(err: Any) -> str:
    command = err.ctx.command_path if err.ctx else "img2shape"
    return f"{err.format_message().rstrip('.')}; see `{command} --help`"


def _explain_os_error(err: OSError) -> str:
    where = f"{err.filename}: " if err.filename else ""
    reason = err.strerror or str(err)
    if err.errno == errno.ENOSPC:
        return f"{where}the disk is full; free some space or use another folder"
    if err.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{where}not writable or readable ({reason}); use another folder"
    return f"{where}{reason}; check the path"


def _fail(message: str, code: int) -> NoReturn:
    from dataio.shards import shown as without_credentials

    line = without_credentials(" ".join(message.split()))
    print(f"img2shape: {line}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
