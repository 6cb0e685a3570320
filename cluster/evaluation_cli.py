"""The commands about finished runs and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.progress import say
from cluster.terminal import Json, only_json, shown

__all__ = ["evaluation_app"]

evaluation_app = typer.Typer(add_completion=False)


@evaluation_app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint folder.")],
    shards: Annotated[int, typer.Option(min=1, help="Parts of the gallery.")] = 1,
    protocol: Annotated[
        str | None, typer.Option(help="mi3dor | shrec", show_default="the run's own")
    ] = None,
    actors: Annotated[bool, typer.Option(help="One Ray actor per gallery shard.")] = False,
    best: Annotated[
        bool,
        typer.Option(
            "--best",
            help="Of a run folder, the checkpoint with the best score on the way (validation.every)"
            " instead of the newest: an oracle's choice, and the result says so.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed queries and gallery with a trained run and score the full gallery exactly."""
    from cluster.evaluation_jobs import evaluate_run

    with only_json(as_json) as emit:
        result = evaluate_run(run, shards=shards, protocol=protocol, actors=actors, best=best)
        emit(result)
    if not as_json:
        from cluster.tables import print_metrics

        print_metrics([(run.resolve().name, result)])


@evaluation_app.command()
def metrics(
    queries: Annotated[Path, typer.Option(help="Parquet with key, label, embedding.")],
    gallery: Annotated[Path, typer.Option(help="Parquet with key, label, embedding.")],
    shards: Annotated[int, typer.Option(min=1, help="Parts of the gallery.")] = 1,
    protocol: Annotated[str, typer.Option(help="mi3dor | shrec")] = "mi3dor",
    features: Annotated[str, typer.Option(help="raw | clamp-l2 | l2")] = "raw",
    metric: Annotated[str, typer.Option(help="euclidean | cosine")] = "euclidean",
    ties: Annotated[str, typer.Option(help="index | expected")] = "index",
    nan_policy: Annotated[
        str, typer.Option(help="raise | last: what NaN and Inf vectors do")
    ] = "raise",
    as_json: Json = False,
) -> None:
    """Score anybody's embeddings with every metric of both protocols."""
    from cluster.evaluation_jobs import score_files

    with only_json(as_json) as emit:
        result = score_files(
            queries,
            gallery,
            shards=shards,
            protocol=protocol,
            features=features,
            metric=metric,
            ties=ties,
            nan_policy=nan_policy,
        )
        emit(result)
    if not as_json:
        from cluster.tables import print_metrics

        print_metrics([(queries.stem, result)])


@evaluation_app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading.")] = "img2shape report",
) -> None:
    """Write one self-contained HTML page about one or several evaluated runs."""
    from cluster.evaluation_jobs import write_report

    write_report(runs, out, title=title)
    say(f"report: {shown(out)}")
