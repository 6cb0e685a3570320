"""The commands about finished runs and embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.configurations import RunData
from cluster.terminal import Json, only_json, say, shown

evaluation_app = typer.Typer(add_completion=False)

Actors = Annotated[
    bool,
    typer.Option(
        "--actors",
        help="Score each gallery shard in its own Ray actor; RAY_ADDRESS names a cluster.",
    ),
]
ShardCpus = Annotated[
    float | None,
    typer.Option(
        help="CPUs that each shard's actor reserves; a fraction is allowed.",
        show_default="an equal share of the free CPUs",
    ),
]
Arithmetic = Annotated[
    str,
    typer.Option(
        help="exact: the same bits on every machine | float32: several times faster on a CPU; the "
        "bits are the same for any number of shards and workers on one kind of machine."
    ),
]
Level = Annotated[
    str,
    typer.Option(
        help="class | instance: also how early the exact shape of each query is found (recall at "
        "1, 5 and 10, MRR, median rank), where pictures and shapes are paired."
    ),
]
Workers = Annotated[
    int,
    typer.Option(
        min=0, help="Ray workers that compute embeddings; 0 works in this process, without Ray."
    ),
]
Select = Annotated[
    str,
    typer.Option(
        help="Which checkpoint of a run folder: the newest (last), or the best by its validation "
        "scores (validation.every). oracle reads labels of what is evaluated; entropy | im | snd | "
        "source-val read no label of the target.",
    ),
]
GalleryChoice = Annotated[
    str | None,
    typer.Option(
        metavar="SPLIT|FOLDER",
        help="The shapes to search: all | train | val | test of the run's data set, or the folder "
        "of another packed data set or of embeddings.",
        show_default="the run's own",
    ),
]


@evaluation_app.command("eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint folder.")],
    shards: Annotated[int, typer.Option(min=1, help="Parts of the gallery.")] = 1,
    protocol: Annotated[
        str | None, typer.Option(help="mi3dor | shrec", show_default="the run's own")
    ] = None,
    actors: Actors = False,
    shard_cpus: ShardCpus = None,
    workers: Workers = 0,
    arithmetic: Arithmetic = "exact",
    level: Level = "class",
    select: Select = "last",
    data: RunData = None,
    a_distance: Annotated[
        bool,
        typer.Option(
            "--a-distance",
            help="Also measure how well a linear SVM tells queries from shapes: from 0 (not at "
            "all) to 2 (always).",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Embed queries and gallery with a trained run and score the full gallery exactly."""
    from cluster.evaluation import evaluate_run

    with only_json(as_json) as emit:
        result = evaluate_run(
            run,
            shards=shards,
            protocol=protocol,
            actors=actors,
            shard_cpus=shard_cpus,
            select=select,
            workers=workers,
            arithmetic=arithmetic,
            measure_a_distance=a_distance,
            data=data,
            level=level,
        )
        emit(result)
    if not as_json:
        from cluster.tables import print_instances, print_metrics

        print_metrics([(run.resolve().name, result)])
        print_instances(run.resolve().name, result)
        if a_distance:
            typer.echo(f"A-distance of queries and shapes: {result['a_distance']:.3f}")


@evaluation_app.command("embed")
def embed_streams(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint folder.")],
    what: Annotated[str, typer.Option(help="queries | gallery | both")] = "both",
    split: Annotated[
        str | None,
        typer.Option(help="train | val | test | all", show_default="what eval scores"),
    ] = None,
    workers: Workers = 0,
    dtype: Annotated[str, typer.Option(help="float32 | float16")] = "float32",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to write into.", show_default="RUN/embeddings"),
    ] = None,
    select: Select = "last",
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Compute the embeddings of queries and gallery and write them as folders of Parquet parts.

    The same command, given again, continues where it was stopped, with any number of workers.
    `eval` reads these embeddings instead of computing them.
    """
    from cluster.evaluation import embed_run

    with only_json(as_json) as emit:
        emit(
            embed_run(
                run,
                what=what,
                split=split,
                workers=workers,
                dtype=dtype,
                out=out,
                select=select,
                data=data,
            )
        )


@evaluation_app.command()
def metrics(
    queries: Annotated[
        Path,
        typer.Option(
            help="Parquet file with key, label, embedding, or a folder of `embed` or of such files."
        ),
    ],
    gallery: Annotated[
        Path,
        typer.Option(
            help="Parquet file with key, label, embedding, or a folder of `embed` or of such files."
        ),
    ],
    shards: Annotated[int, typer.Option(min=1, help="Parts of the gallery.")] = 1,
    actors: Actors = False,
    shard_cpus: ShardCpus = None,
    protocol: Annotated[str, typer.Option(help="mi3dor | shrec")] = "mi3dor",
    features: Annotated[str, typer.Option(help="raw | clamp-l2 | l2")] = "raw",
    metric: Annotated[str, typer.Option(help="euclidean | cosine")] = "euclidean",
    arithmetic: Arithmetic = "exact",
    ties: Annotated[str, typer.Option(help="index | expected")] = "index",
    nan_policy: Annotated[
        str,
        typer.Option(help="NaN and Inf vectors are an error (raise) or are ranked last (last)."),
    ] = "raise",
    level: Level = "class",
    drop_self: Annotated[
        bool,
        typer.Option(
            "--drop-self",
            help="Queries are items of the gallery: leave the item with a query's key out of its "
            "ranking.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Score any embeddings with every metric of both protocols."""
    from cluster.evaluation import score_files

    with only_json(as_json) as emit:
        result = score_files(
            queries,
            gallery,
            shards=shards,
            actors=actors,
            shard_cpus=shard_cpus,
            protocol=protocol,
            features=features,
            metric=metric,
            arithmetic=arithmetic,
            ties=ties,
            nan_policy=nan_policy,
            drop_self=drop_self,
            level=level,
        )
        emit(result)
    if not as_json:
        from cluster.tables import print_instances, print_metrics

        print_metrics([(queries.stem, result)])
        print_instances(queries.stem, result)


@evaluation_app.command()
def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Evaluated run folders; each is compared with the first.")
    ],
    confidence: Annotated[
        float, typer.Option(help="Level of the intervals, between 0 and 1.")
    ] = 0.95,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap samples of the queries.")] = 2000,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also compare each class.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    as_json: Json = False,
) -> None:
    """Print bootstrap intervals over queries for each run and for paired differences."""
    from cluster.evaluation import compare_runs, print_comparisons

    with only_json(as_json) as emit:
        result = compare_runs(
            runs, confidence=confidence, resamples=resamples, seed=seed, per_class=per_class
        )
        emit(result)
    if not as_json:
        print_comparisons(result)


@evaluation_app.command("index")
def build(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint folder.")],
    kind: Annotated[str, typer.Option(help="flat | ivf | hnsw | ivfpq")] = "flat",
    nlist: Annotated[int | None, typer.Option(help="Number of cells (ivf, ivfpq).")] = None,
    nprobe: Annotated[int | None, typer.Option(help="Cells searched (ivf, ivfpq).")] = None,
    links: Annotated[int | None, typer.Option(help="Links of each item (hnsw).")] = None,
    ef_construction: Annotated[
        int | None, typer.Option(help="Candidates while building (hnsw).")
    ] = None,
    ef_search: Annotated[
        int | None, typer.Option(help="Candidates while searching (hnsw).")
    ] = None,
    subspaces: Annotated[
        int | None, typer.Option(help="Number of codes for each vector (ivfpq).")
    ] = None,
    bits: Annotated[int | None, typer.Option(help="Bits of each code (ivfpq).")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the index's training (ivf, ivfpq).")
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option(min=1, help="Queries to measure the loss on.", show_default="up to 1000"),
    ] = None,
    gallery: GalleryChoice = None,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Build a search index over the run's gallery, and measure what an approximate one loses.

    The index is written to RUN/index-KIND, that of another gallery beside it under its name.
    Parameters that are left out follow from the size of the gallery.
    """
    from cluster.evaluation import index_run, print_index

    parameters = {
        "nlist": nlist,
        "nprobe": nprobe,
        "links": links,
        "ef_construction": ef_construction,
        "ef_search": ef_search,
        "subspaces": subspaces,
        "bits": bits,
        "seed": seed,
    }
    with only_json(as_json) as emit:
        result = index_run(
            run,
            kind=kind,
            parameters=parameters,
            most_queries=queries,
            gallery=gallery,
            data=data,
        )
        emit(result)
    if not as_json:
        print_index(result)


@evaluation_app.command(
    epilog="Example: img2shape search runs/demo/astn --image chair.jpg -k 5 --open"
)
def search(
    run: Annotated[Path, typer.Argument(help="A run folder or a checkpoint folder.")],
    image: Annotated[
        list[Path] | None, typer.Option(help="A picture file; may be given again.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help="What to look for in words, in place of pictures; may be given again. Only in a "
            "run of zero-shot on an open_clip trunk."
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Shapes to find.")] = 10,
    kind: Annotated[
        str, typer.Option(help="flat | ivf | hnsw | ivfpq; see `img2shape index`.")
    ] = "flat",
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures.")] = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open that page (RUN/search.html) in the browser.")
    ] = False,
    gallery: GalleryChoice = None,
    data: RunData = None,
    as_json: Json = False,
) -> None:
    """Find the shapes of a trained run's gallery that are nearest to a picture, or to a text."""
    from cluster.evaluation import print_search, search_run

    with only_json(as_json) as emit:
        result = search_run(
            run,
            image or (),
            texts=text or (),
            k=k,
            kind=kind,
            html=html,
            open_page=open_page,
            gallery=gallery,
            data=data,
        )
        emit(result)
    if not as_json:
        print_search(result)


@evaluation_app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Evaluated run folders.")],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Heading.")] = "img2shape report",
    curve: Annotated[
        str,
        typer.Option(
            help="Precision and recall: pooled over the queries | shrec: mean over the queries at "
            "20 recall levels."
        ),
    ] = "pooled",
) -> None:
    """Write one self-contained HTML page about one or several evaluated runs."""
    from cluster.evaluation import write_report

    write_report(runs, out, title=title, curve=_curve(curve))
    say(f"report: {shown(out)}")


def _curve(value: str) -> Any:
    from evalsuite.scoring import CURVES
    from trainer.config import ConfigError

    if value not in CURVES:
        raise ConfigError(f"--curve {value}: one of {', '.join(CURVES)}")
    return value
