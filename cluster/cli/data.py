"""The commands ``img2shape data ...``: render, pack and examine data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cluster.cli.configurations import Config, DataFolder, read_run
from cluster.terminal import Json, Overrides, only_json, say, shown

data_app = typer.Typer(help="Make, render, pack and examine data sets.")

Dataset = Annotated[str, typer.Argument(metavar="DATASET", help="See `img2shape data sets`.")]
Root = Annotated[Path, typer.Option(help="Folder of the data set as distributed.")]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", "-o", metavar="KEY=VALUE", help="Option of the data set; may be repeated."
    ),
]
Lenient = Annotated[
    bool,
    typer.Option("--lenient", help="Skip what cannot be used, and list it, instead of failing."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Fail where counts differ from the published ones.")
]
RayWorkers = Annotated[
    int,
    typer.Option(
        "--workers", min=0, help="Ray tasks at a time; 0 works in this process, without Ray."
    ),
]
UpAxis = Annotated[
    str | None, typer.Option(help="Up axis of the meshes: +z | +y.", show_default="the data set's")
]
Preset = Annotated[
    str, typer.Option(help="How views are rendered: mvcnn_v1 | mvcnn_pt | fixed_scale.")
]


@data_app.command("make")
def make(
    benchmark: Annotated[str, typer.Argument(help="procedural")],
    out: Annotated[Path, typer.Option(help="Folder of the data set.")],
    size: Annotated[str, typer.Option(help="smoke | small | medium | large")] = "small",
    seed: Annotated[int, typer.Option(min=0, help="Seed of all shapes and pictures.")] = 0,
    style: Annotated[str, typer.Option(help="Look of the shapes' views: a | b.")] = "a",
    layout: Annotated[
        str, typer.Option(help="mi3dor | shrec: sketches and meshes as SHREC'14 has them.")
    ] = "mi3dor",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes.", show_default="one per core")
    ] = None,
) -> None:
    """Make the built-in benchmark: raw tree in OUT/raw, packed shards and manifest in OUT."""
    from cluster.data_jobs import make_benchmark

    if benchmark != "procedural":
        raise typer.BadParameter(f"unknown benchmark '{benchmark}'; there is one: procedural")
    manifest = make_benchmark(
        out, size=size, seed=seed, style=style, layout=layout, workers=workers
    )
    say(f"data set: {shown(out)}: {len(manifest.keys)} samples, {len(manifest.classes)} classes")


@data_app.command("sets")
def sets(
    name: Annotated[str | None, typer.Argument(help="One data set, with its options.")] = None,
    as_json: Json = False,
) -> None:
    """List the data sets that can be packed, or show one: its tree, its options, its terms."""
    from cluster.cli.data_tables import describe_set, describe_sets, print_set, print_sets

    with only_json(as_json) as emit:
        result: Any = describe_set(name) if name else {"sets": describe_sets()}
        emit(result)
    if not as_json:
        print_set(result) if name else print_sets(result["sets"])


@data_app.command(
    "render",
    epilog="Example: img2shape data render modelnet40 --root raw/ModelNet40 --out views",
)
def render(
    dataset: Dataset,
    root: Root,
    out: Annotated[
        Path,
        typer.Option(help="Folder to write the views into; `data pack --views-from` reads it."),
    ],
    option: Options = None,
    preset: Preset = "mvcnn_v1",
    size: Annotated[int, typer.Option(min=8, help="Side of a view in pixels.")] = 224,
    up_axis: UpAxis = None,
    shading: Annotated[
        str | None, typer.Option(help="flat | phong", show_default="the preset's")
    ] = None,
    workers: RayWorkers = 0,
    lenient: Lenient = False,
    as_json: Json = False,
) -> None:
    """Render each mesh of a data set to a ring of views. An interrupted call may be repeated.

    A mesh that cannot be rendered is left out and listed, with the reason, in OUT/quarantine.jsonl.
    """
    from cluster.data_jobs import render_data

    with only_json(as_json) as emit:
        result = render_data(
            dataset,
            root,
            out,
            options=option or (),
            preset=preset,
            size=size,
            up_axis=up_axis,
            shading=shading,
            workers=workers,
            lenient=lenient,
        )
        emit(result)


@data_app.command(
    "pack", epilog="Example: img2shape data pack mi3dor --root raw/MI3DOR --out data/mi3dor"
)
def pack(
    dataset: Dataset,
    root: Root,
    out: Annotated[Path, typer.Option(help="Folder of the packed data set.")],
    option: Options = None,
    split: Annotated[
        list[str] | None, typer.Option(help="Only this split; may be repeated.")
    ] = None,
    shard_size_mb: Annotated[int, typer.Option(min=1, help="Largest size of a shard.")] = 256,
    views: Annotated[
        Literal["stack", "npy"],
        typer.Option(help="How shapes are stored: stack (one JPEG) | npy (lossless)."),
    ] = "stack",
    views_from: Annotated[
        Path | None, typer.Option(help="Folder of views that `data render` made of these meshes.")
    ] = None,
    max_size: Annotated[
        int | None,
        typer.Option(min=1, help="Shrink pictures so that the shorter side has this many pixels."),
    ] = None,
    preset: Preset = "mvcnn_v1",
    size: Annotated[
        int, typer.Option(min=8, help="Side in pixels of views that are rendered while packing.")
    ] = 224,
    up_axis: UpAxis = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the shuffle.")] = 0,
    workers: RayWorkers = 0,
    lenient: Lenient = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Pack a data set into WebDataset shards and a manifest. A killed call may be repeated.

    The same input gives the same bytes for any number of workers. Without --views-from, meshes are
    rendered while packing.
    """
    from cluster.data_jobs import pack_data

    with only_json(as_json) as emit:
        result = pack_data(
            dataset,
            root,
            out,
            options=option or (),
            splits=tuple(split or ()),
            shard_size_mb=shard_size_mb,
            views=views,
            views_from=views_from,
            max_size=max_size,
            preset=preset,
            size=size,
            up_axis=up_axis,
            seed=seed,
            workers=workers,
            lenient=lenient,
            strict=strict,
        )
        emit(result)


@data_app.command("index")
def index(
    root: Annotated[str, typer.Argument(metavar="FOLDER", help="Folder (or URL) of the tars.")],
    stream: Annotated[str, typer.Option(help="What the tars hold: image | sketch | shape.")],
    split: Annotated[str, typer.Option(help="train | val | test")] = "train",
    tars: Annotated[
        list[str] | None,
        typer.Option(
            "--tar", help="Name pattern of the tars; may be repeated.", show_default="*.tar"
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(help="Text file whose line k + 1 names class k of the .cls members."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the data set.", show_default="the folder's")
    ] = None,
    add: Annotated[
        bool,
        typer.Option("--add", help="Add another stream or split to the existing manifest."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a manifest for WebDataset tars that other programs wrote; the tars stay as they are."""
    from cluster.data_jobs import index_data

    with only_json(as_json) as emit:
        result = index_data(
            root,
            stream=stream,
            split=split,
            tars=tuple(tars or ("*.tar",)),
            class_names=class_names,
            name=name,
            add=add,
        )
        emit(result)


@data_app.command("verify")
def verify(
    root: Annotated[str, typer.Argument(metavar="SHARDS", help="A packed data set.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Quarantine bad samples; training leaves them out.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a packed data set: compare hashes, decode every sample, look for test items in train.

    Exit code 0: sound; 1: bad samples or leakage; 2: not usable at all.
    """
    from cluster.data_jobs import print_check, verify_data

    with only_json(as_json) as emit:
        result = verify_data(root, repair=repair)
        emit(result)
    if not as_json:
        print_check(result)
    if not result["ok"]:
        raise typer.Exit(1)


@data_app.command("inspect")
def inspect(
    root: Annotated[str, typer.Argument(metavar="SHARDS", help="A packed data set.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Contact sheet to write, a PNG.", show_default="none")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a packed data set holds: counts, sizes, classes, sources, and a contact sheet."""
    from cluster.data_jobs import inspect_data, print_inspection

    with only_json(as_json) as emit:
        result = inspect_data(root, sheet=sheet)
        emit(result)
    if not as_json:
        print_inspection(result)


@data_app.command("explain")
def explain(
    config: Config,
    overrides: Overrides = None,
    data: DataFolder = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of training workers.")] = 1,
    as_json: Json = False,
) -> None:
    """Show what a run will read: steps per epoch, bytes, shards, repeats, padding, cache, classes.


    It needs no GPU.
    """
    with only_json(as_json) as emit:
        run = read_run(config, overrides, data)
        from trainer.explain import explain_run
        from trainer.inputs import OpenData

        result = explain_run(OpenData(run), world_size=workers)
        emit(result)
    if not as_json:
        from cluster.data_jobs import print_explanation

        print_explanation(result)


@data_app.command("replay")
def replay(
    config: Config,
    overrides: Overrides = None,
    data: DataFolder = None,
    step: Annotated[int, typer.Option(min=0, help="Step, from 0.")] = 0,
    workers: Annotated[
        int, typer.Option(min=1, help="Number of workers; each one's part is shown.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Print the sample keys of one step of a run, in batch order, for any number of workers."""
    with only_json(as_json) as emit:
        run = read_run(config, overrides, data)
        from trainer.explain import replay_step
        from trainer.inputs import OpenData

        result = replay_step(OpenData(run), step=step, world_size=workers)
        emit(result)
    if not as_json:
        from cluster.data_jobs import print_replay

        print_replay(result)
