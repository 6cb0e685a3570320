"""The commands about the initial weights of trunks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.terminal import Json, only_json

weights_app = typer.Typer(
    add_completion=False, help="Initial weights of trunks: list them, convert Caffe's AlexNet."
)


@weights_app.command(
    "list", epilog="Example: img2shape weights list --backbone timm/vit_small_patch14_dinov2"
)
def list_weights(
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A trunk: its weights, their preprocessing, and whether they are downloaded.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what is at hand: trunks, packages of weights, libraries. Nothing is downloaded."""
    from cluster.cli import weights_tables as tables

    with only_json(as_json) as emit:
        result = tables.describe_trunk(backbone) if backbone else tables.describe_all()
        emit(result)
    if not as_json:
        tables.print_trunk(result) if backbone else tables.print_all(result)


@weights_app.command(
    "convert",
    epilog="Example: img2shape weights convert bvlc_reference_caffenet.caffemodel --out "
    "weights/alexnet-caffe.safetensors",
)
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN",
            help="Caffe's .caffemodel, or a state dict of its port to PyTorch (.pt, .pth, "
            ".safetensors).",
        ),
    ],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    backbone: Annotated[str, typer.Option(help="The trunk that the weights are for.")] = "alexnet",
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(
            metavar="B G R",
            help="Mean colour in [0, 255] that was subtracted in training.",
            show_default="that of Caffe's ilsvrc_2012_mean.npy",
        ),
    ] = None,
    mean_file: Annotated[
        Path | None,
        typer.Option(
            help="The same, averaged over a mean picture: a .binaryproto of Caffe or a .npy."
        ),
    ] = None,
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Put colour order, range and mean into conv1: the weights then take RGB in "
            "[0, 1].",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Turn a Caffe AlexNet into weights of the trunk alexnet that say their own preprocessing.

    No code in IN is run. What does not fit is named, and nothing is written then.
    """
    if mean is not None and mean_file is not None:
        raise typer.BadParameter("--mean and --mean-file say the same; give one of them")
    with only_json(as_json) as emit:
        from trainer.converting import BACKBONES, convert_alexnet, read_mean

        if backbone not in BACKBONES:
            raise typer.BadParameter(
                f"--backbone: no weights are converted for '{backbone}', only for "
                f"{', '.join(BACKBONES)}"
            )
        if mean_file is not None:
            mean = read_mean(mean_file)
        done = convert_alexnet(source, out, mean=mean, fold=fold, force=force)
        from cluster.cli.weights_tables import describe_conversion, print_conversion

        result: dict[str, Any] = describe_conversion(done, backbone=backbone)
        emit(result)
    if not as_json:
        print_conversion(result)
