"""The commands ``img2shape k8s ...``: a run description as objects for Kubernetes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.terminal import Overrides, say, shown

kubernetes_app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Objects for Kubernetes with KubeRay."
)

JobName = Annotated[
    str | None,
    typer.Option(
        help="train | sweep | eval | cluster (which stays, for work by hand)",
        show_default="train, or sweep when the file has axes",
    ),
]


@kubernetes_app.command(
    epilog="Example: img2shape k8s render configs/procedural/astn.yaml --gpus 4 "
    "--storage pvc:img2shape:200Gi --out astn.yaml"
)
def render(
    config: Annotated[
        Path, typer.Argument(help="Run description (a file or a shipped name) or sweep file.")
    ],
    overrides: Overrides = None,
    job: JobName = None,
    gpus: Annotated[
        int, typer.Option(min=0, help="GPUs of the whole job; 0: workers run on CPUs.")
    ] = 0,
    gpus_per_node: Annotated[int, typer.Option(min=1, help="GPUs of each worker pod.")] = 1,
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN-MAX", help="Number of workers.", show_default="one per GPU, or 2"
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(min=1, help="CPUs of each worker.", show_default="8 with a GPU, else 2"),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory of each worker.", show_default="32Gi with a GPU, else 4Gi"),
    ] = None,
    shm: Annotated[
        str | None,
        typer.Option(help="Size of each pod's /dev/shm.", show_default="a quarter of its memory"),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(help="Container image.", show_default="img2shape:<version>-cuda or -cpu"),
    ] = None,
    namespace: Annotated[str, typer.Option(help="Namespace, which must exist.")] = "img2shape",
    name: Annotated[
        str | None,
        typer.Option(help="Name of the job and its run folder.", show_default="the file's"),
    ] = None,
    queue: Annotated[str | None, typer.Option(help="Queueing system: kueue | volcano.")] = None,
    queue_name: Annotated[str, typer.Option(help="Name of the queue.")] = "img2shape",
    storage: Annotated[
        list[str] | None,
        typer.Option(
            help="pvc:CLAIM uses a claim, pvc:CLAIM:SIZE makes one; data may be read from "
            "s3://BUCKET/PREFIX or gs://BUCKET/PREFIX besides; may be given again.",
            show_default="pvc:img2shape",
        ),
    ] = None,
    storage_class: Annotated[
        str | None,
        typer.Option(help="Storage class of a claim that is made.", show_default="the cluster's"),
    ] = None,
    secret: Annotated[
        str | None,
        typer.Option(help="Secret that holds a bucket's credentials as environment variables."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="Name of the run that eval reads, a folder below runs.", show_default="the file's"
        ),
    ] = None,
    deadline_hours: Annotated[
        int, typer.Option(min=1, help="Hours after which a job is stopped.")
    ] = 168,
    monitoring: Annotated[
        bool,
        typer.Option("--monitoring/--no-monitoring", help="Add PodMonitor, alerts and dashboards."),
    ] = True,
    monitoring_namespace: Annotated[
        str, typer.Option(help="Namespace whose Prometheus may scrape the pods.")
    ] = "monitoring",
    out: Annotated[Path | None, typer.Option(help="File to write.", show_default="stdout")] = None,
) -> None:
    """Print and check all objects of one job, ready for `kubectl apply -f`.

    Paths in the description are relative to the volume; the run is written to runs/NAME there.
    """
    from cluster.kubernetes import (
        JOBS,
        QUEUES,
        Options,
        default_image,
        is_sweep,
        object_name,
        one_of,
        parse_storage,
        require_name,
        size_of,
        to_yaml,
    )
    from cluster.kubernetes import render as rendered

    swept = is_sweep(config)
    kind: Any = one_of("--job", job, JOBS) if job else ("sweep" if swept else "train")
    _require_fitting(config, kind, swept)
    stem = object_name(config.stem)
    options = Options(
        job=kind,
        name=require_name("--name", name or _default_name(stem, kind)),
        size=size_of(
            gpus=gpus,
            gpus_per_node=gpus_per_node,
            workers=workers,
            cpus_per_worker=cpus_per_worker,
            memory=memory,
            shm=shm,
        ),
        storage=parse_storage(storage or ["pvc:img2shape"], storage_class=storage_class),
        image=image or default_image(gpus=gpus),
        run=_run_name(run or (stem if kind == "eval" else name or stem)),
        namespace=require_name("--namespace", namespace),
        queue=one_of("--queue", queue, QUEUES) if queue else None,
        queue_name=require_name("--queue-name", queue_name),
        secret=_secret_name(secret) if secret else None,
        monitoring=monitoring,
        monitoring_namespace=require_name("--monitoring-namespace", monitoring_namespace),
        deadline_seconds=deadline_hours * 3600,
    )
    objects = rendered(config, overrides or (), options)
    _say_checks(objects)
    _write(to_yaml(objects), out)


@kubernetes_app.command(epilog="Example: img2shape k8s base --out k8s && kubectl apply -k k8s/base")
def base(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("k8s"),
) -> None:
    """Write the kustomize base (namespace, volume, default policies) and example overlays."""
    from cluster.kubernetes import kustomize_files
    from trainer.runs import write_text

    for name, text in kustomize_files().items():
        file = out.absolute() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    say(f"next: kubectl apply -k {shown(out / 'base')}")


def _default_name(stem: str, kind: str) -> str:
    return stem if kind in ("train", "sweep") else f"{stem}-{'eval' if kind == 'eval' else 'dev'}"


def _run_name(text: str) -> str:
    from trainer.config import ConfigError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise ConfigError(f"--run '{text}': the name of a folder below runs, such as astn-1")
    return text


def _secret_name(text: str) -> str:
    from trainer.config import ConfigError

    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", text):
        raise ConfigError(
            "--secret: not the name of a Secret; make one with kubectl create secret, and give its "
            "name, never its content"
        )
    return text


def _require_fitting(config: Path, kind: str, swept: bool) -> None:
    from trainer.config import ConfigError

    if swept != (kind == "sweep"):
        what = "a sweep file" if swept else "no sweep file: it has no axes"
        raise ConfigError(f"--job {kind}: {config} is {what}; leave --job out, or give the other")


def _say_checks(objects: list[dict[str, Any]]) -> None:
    from cluster.kubernetes import KUBERNETES_VERSION, check
    from trainer.config import ConfigError

    checked = check(objects)
    if checked.findings:
        raise ConfigError(f"not valid: {'; '.join(checked.findings)}; mend the options")
    say(f"{len(objects)} objects; their pods are made for the restricted profile")
    if checked.by_schema is None:
        say("not held against schemas: pip install 'img2shape[k8s]' for that")
    else:
        say(f"{checked.by_schema} of them fit the schemas of Kubernetes {KUBERNETES_VERSION}")


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        say("next: the same with `| kubectl apply -f -`")
        return
    from trainer.runs import write_text

    write_text(out.absolute(), text)
    say(f"next: kubectl apply -f {shown(out)}")
