"""The commands about many runs: sweeps, the papers' tables and figures, transfer matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.terminal import Json, Overrides, only_json, say, shown

if TYPE_CHECKING:
    from cluster.sweeps import Outcome, Running

sweep_app = typer.Typer(add_completion=False)

StoreFolder = Annotated[
    Path, typer.Option("--store", help="Folder of the ledger and of the runs, for all sweeps.")
]
AtOnce = Annotated[
    int | None,
    typer.Option(
        "--max-concurrent", min=1, help="Cells at a time.", show_default="what the cluster holds"
    ),
]
WorkersPerTrial = Annotated[
    int,
    typer.Option(
        min=0, help="Ray Train workers of each cell; 0 trains in the trial's own process."
    ),
]
Selection = Annotated[
    str,
    typer.Option(help="last | entropy | im | snd | source-val | oracle: whose numbers count."),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Also try the cells again that have failed. Finished cells are never run again, and "
        "half-trained ones always go on, with or without this.",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        help="procedural: the built-in benchmark | catalogue: real product pictures | real: the "
        "papers' data sets."
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick", help="Small data, few steps, one seed: it runs, its numbers mean nothing."
    ),
]
AnyCode = Annotated[
    bool,
    typer.Option("--any-code", help="Results of other versions of the code count as finished too."),
]


@sweep_app.command(epilog="Example: img2shape sweep configs/sweeps/astn-weights.yaml --resume")
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file: config, axes, search, selection.")],
    store: StoreFolder = Path("runs/sweeps"),
    resume: Resume = False,
    max_concurrent: AtOnce = None,
    workers_per_trial: WorkersPerTrial = 0,
    any_code: AnyCode = False,
    as_json: Json = False,
) -> None:
    """Train and score what is missing of a sweep, on Ray Tune; writes STORE/NAME/report.html.

    Given again, also after a kill or with an edited file, it runs only what is missing or changed
    and says why. Exit code 1 when a cell failed.
    """
    from cluster.sweeps import load_sweep, run_sweep, write_page

    with only_json(as_json) as emit:
        running = _running(store, resume, max_concurrent, workers_per_trial, any_code)
        outcome = run_sweep(load_sweep(file), running)
        page = write_page(outcome)
        emit({**outcome.to_json(), "page": str(page)})
    if not as_json:
        from cluster.cli.ledger_tables import print_ls

        print_ls(running.store.ledger, outcome.rows)
    _end(outcome, page)


@sweep_app.command(
    epilog="Example: img2shape table astn-3 --quick, or without a name for the list of them"
)
def table(
    name: Annotated[
        str | None,
        typer.Argument(help="As ftspl-III; astn for all of a paper, all; or a table file."),
    ] = None,
    overrides: Overrides = None,
    data: Data = "procedural",
    quick: Quick = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each cell.", show_default="3")
    ] = None,
    selection: Selection = "last",
    to: Annotated[
        list[Path] | None,
        typer.Option(help="Also write FILE.md, .tex, .csv or .html; may be given again."),
    ] = None,
    store: StoreFolder = Path("runs/sweeps"),
    resume: Resume = False,
    max_concurrent: AtOnce = None,
    workers_per_trial: WorkersPerTrial = 0,
    any_code: AnyCode = False,
    as_json: Json = False,
) -> None:
    """Train what is missing of the papers' tables; print ours beside the published figures."""
    if name is None:
        _list_tables(as_json)
        return
    from cluster.sweeps import write_page
    from cluster.sweeps.tables import (
        DATA_CHOICES,
        exporters,
        load_tables,
        print_result_table,
        run_tables,
    )
    from trainer.runs import write_text

    with only_json(as_json) as emit:
        chosen = load_tables(name)
        written = exporters(to or [])  # a wrong ending is refused before hours of training
        results, outcome = run_tables(
            chosen,
            _running(store, resume, max_concurrent, workers_per_trial, any_code),
            name=chosen[0].name if len(chosen) == 1 else f"{name.casefold()}-tables",
            data=_choice("--data", data, DATA_CHOICES),
            quick=quick,
            seeds=seeds,
            selection=_selection(selection),
            keys=overrides or (),
        )
        for file, render in written.items():
            write_text(file.absolute(), render(results))
        page = write_page(outcome, tables=results)
        emit({**outcome.to_json(), "page": str(page), "tables": [asdict(r) for r in results]})
    if not as_json:
        for result in results:
            print_result_table(result)
    _end(outcome, page)


@sweep_app.command(
    epilog="Example: img2shape figure astn-3 --quick, or without a name for the list of them"
)
def figure(
    name: Annotated[
        str | None,
        typer.Argument(help="As astn-3; astn for all of a paper, all; or a figure file."),
    ] = None,
    overrides: Overrides = None,
    data: Data = "procedural",
    quick: Quick = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Trainings of each cell.", show_default="the figure's")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("runs/figures"),
    store: StoreFolder = Path("runs/sweeps"),
    resume: Resume = False,
    max_concurrent: AtOnce = None,
    workers_per_trial: WorkersPerTrial = 0,
    any_code: AnyCode = False,
    as_json: Json = False,
) -> None:
    """Train what is missing of the papers' figures; draw them as OUT/NAME.svg, .png and .csv.

    Cells are those of `img2shape table`, in the same ledger: what a table has trained is drawn
    without training.
    """
    if name is None:
        _list_figures(as_json)
        return
    from cluster.sweeps import write_page
    from cluster.sweeps.figures import load_figures, run_figures
    from cluster.sweeps.tables import DATA_CHOICES

    with only_json(as_json) as emit:
        chosen = load_figures(name)
        files, outcome = run_figures(
            chosen,
            _running(store, resume, max_concurrent, workers_per_trial, any_code),
            name=f"figure-{chosen[0].name}" if len(chosen) == 1 else f"{name.casefold()}-figures",
            out=out,
            data=_choice("--data", data, DATA_CHOICES),
            quick=quick,
            seeds=seeds,
            keys=overrides or (),
        )
        page = write_page(outcome)
        told = {one: {k: str(path) for k, path in own.items()} for one, own in files.items()}
        emit({**outcome.to_json(), "page": str(page), "figures": told})
    for own in files.values():
        say(f"figure: {shown(own['svg'])}, and .png and .csv beside it")
    _end(outcome, page)


@sweep_app.command(
    epilog="Example: img2shape matrix --methods source-only,astn --datasets "
    "data/procedural-small,data/procedural-small-b training.steps=200"
)
def matrix(
    methods: Annotated[str, typer.Option(metavar="M,M", help="Methods.")],
    datasets: Annotated[
        str, typer.Option(metavar="D,D", help="Packed data sets: names below data/, paths, URLs.")
    ],
    overrides: Overrides = None,
    config: Annotated[
        str, typer.Option(help="Run description to start from; {method} is the method's name.")
    ] = "configs/procedural/{method}.yaml",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each cell.")] = 1,
    name: Annotated[str, typer.Option(help="Name of the page's folder.")] = "matrix",
    metric: Annotated[str, typer.Option(help="Shown in the matrices.")] = "mAP",
    selection: Selection = "last",
    store: StoreFolder = Path("runs/sweeps"),
    resume: Resume = False,
    max_concurrent: AtOnce = None,
    workers_per_trial: WorkersPerTrial = 0,
    any_code: AnyCode = False,
    as_json: Json = False,
) -> None:
    """Train every method from every data set to every data set; the page has the heat maps."""
    from cluster.sweeps import run_sweep, write_page
    from cluster.sweeps.tables import matrix_sweep, print_matrices, transfer_matrices
    from evalsuite.scoring import HEADLINES
    from trainer.config import parse_override

    with only_json(as_json) as emit:
        described = matrix_sweep(
            _listed(methods),
            _listed(datasets),
            config=config,
            seeds=seeds,
            keys=dict(map(parse_override, overrides or ())),
            name=name,
            selection=_selection(selection),
        )
        shown_metric = _choice("--metric", metric, HEADLINES)
        running = _running(store, resume, max_concurrent, workers_per_trial, any_code)
        outcome = run_sweep(described, running)
        matrices = transfer_matrices(outcome, metric=shown_metric)
        page = write_page(outcome, matrices=matrices)
        emit({**outcome.to_json(), "page": str(page)})
    if not as_json:
        print_matrices(matrices)
    _end(outcome, page)


def _list_tables(as_json: bool) -> None:
    from cluster.sweeps.tables import load_table, print_part_names, table_names

    with only_json(as_json) as emit:
        found = {name: load_table(name).title for name in table_names()}
        emit({"tables": found})
    if not as_json:
        print_part_names("table", found, caption="img2shape table NAME runs and prints one")


def _list_figures(as_json: bool) -> None:
    from cluster.sweeps.figures import figure_names, load_figure
    from cluster.sweeps.tables import print_part_names

    with only_json(as_json) as emit:
        found = {name: load_figure(name).title for name in figure_names()}
        emit({"figures": found})
    if not as_json:
        print_part_names("figure", found, caption="img2shape figure NAME draws one")


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _selection(value: str) -> Any:
    from trainer.choosing import SELECTIONS

    return _choice("--selection", value, SELECTIONS)


def _choice(option: str, value: str, known: Sequence[str]) -> Any:
    if value not in known:
        from dataio.names import nearest
        from trainer.config import ConfigError

        raise ConfigError(f"{option} {value}: one of {', '.join(known)}{nearest(value, known)}")
    return value


def _running(
    store: Path, resume: bool, at_once: int | None, workers: int, any_code: bool
) -> Running:
    from cluster.sweeps import Running, Store

    return Running(
        Store(store),
        workers=workers,
        at_once=at_once,
        retry="failed" if resume else "none",
        code="any" if any_code else "same",
    )


def _end(outcome: Outcome, page: Path) -> None:
    say(f"page: {shown(page)}")
    if outcome.failed:
        first = outcome.failed[0]
        say(
            f"{len(outcome.failed)} of {len(outcome.rows)} cells failed, the first with: "
            f"{first['error']}; `img2shape ledger show {first['key']} --store "
            f"{shown(outcome.store)}` tells more, --resume tries them again"
        )
        raise typer.Exit(1)
