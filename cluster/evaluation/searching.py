"""What the commands ``index`` and ``search`` do."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cluster.evaluation.extraction import (
    configured_options,
    configured_stream,
    embed,
    require_same_data,
    results_folder,
)
from cluster.evaluation.galleries import Gallery, open_gallery, require_width
from cluster.evaluation.origins import sample_origins
from cluster.evaluation.pictures import SamplePictures, embed_pictures, embed_texts, thumbnail
from cluster.tables import standard_output
from cluster.terminal import say, shown, task
from evalsuite.scoring import HEADLINES, Options
from evalsuite.search import (
    DESCRIPTION,
    KINDS,
    Neighbours,
    SearchIndex,
    approximation_report,
    build_index,
    choose_parameters,
    read_index,
    write_index,
)
from evalsuite.vectors import Embeddings, EvaluationError
from trainer.extraction import TrainedRun, load_run
from trainer.runs import RunFolder, naming


def index_run(
    path: Path,
    *,
    kind: str = "flat",
    parameters: Mapping[str, int | None] | None = None,
    most_queries: int | None = None,
    gallery: str | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Build an index over a run's gallery and write it to ``<run>/index-<kind>``.

    Returns plain JSON values: the folder, kind, parameters, size and seconds of building; of an
    approximate kind under ``report`` what it costs and gains against exact search, which the
    folder's description holds too.

    Args:
        path: run folder or checkpoint folder.
        parameters: of ``evalsuite.search.index_parameters``; None stands for a default.
        most_queries: measure on so many queries; a default by the length of the lists.
        gallery: what to search instead of the run's gallery, as of :func:`open_gallery`; the index
            is then in a folder of its own.
        data: where the run's data set lies now; None: where it was trained.

    Raises:
        ConfigError: no checkpoint, or other data than the run was trained on.
        EvaluationError: an unknown kind or parameter, or a gallery that the kind does not take.
    """
    _require_kind(kind)
    run, folder = _opened(path, data)
    options = configured_options(run)
    choose_parameters(kind, items=1 << 24, width=1 << 12, given=parameters)  # names, before work
    found = open_gallery(run, folder, gallery)
    shapes = found.embeddings
    queries = [] if kind == "flat" else _embeddings(run, folder, ("queries",))
    for asked in queries:
        require_width(found, asked)
    space = options.space
    start = time.monotonic()
    with task(f"building the {kind} index"):
        index = build_index(shapes, kind, **space, parameters=parameters)
    about: dict[str, Any] = {"build_seconds": round(time.monotonic() - start, 3)}
    origins = sample_origins([found.data])
    if queries:
        with task("comparing with exact search") as bar:
            about["report"] = approximation_report(
                index,
                queries[0],
                shapes,
                options=options,
                most_queries=most_queries,
                progress=bar.at,
            )
    target = _index_folder(folder, kind, found)
    with naming(target):
        named = {"origins": [origins.get(key, key) for key in shapes.keys]}
        write_index(target, index, shapes, about=about | named)
    return {
        "run": str(shown(path)),
        "folder": str(shown(target)),
        "kind": kind,
        "parameters": index.parameters,
        "items": len(shapes),
        "width": shapes.width,
        **space,
        **about,
    }


def search_run(
    path: Path,
    images: Sequence[Path] = (),
    *,
    texts: Sequence[str] = (),
    k: int = 10,
    kind: str = "flat",
    html: Path | None = None,
    open_page: bool = False,
    gallery: str | None = None,
    data: str | None = None,
) -> dict[str, Any]:
    """Find the k shapes of a run's gallery that are nearest to each picture file, or each text.

    Returns plain JSON values: per image or text its results (rank, key, origin, label, distance),
    nearest first; the origin is the key where none is known. ``available`` are the shapes of all
    splits of the run's data set, None where a folder is searched.

    Args:
        path: run folder or checkpoint folder.
        images: picture files; none where ``texts`` are given.
        texts: what to look for in words; only in runs whose trunk has a text tower.
        kind: of the index. It is read from ``<run>/index-<kind>``; a flat one is built if there is
            none.
        html: file of the page with pictures.
        open_page: show the page in the browser; without ``html`` it is ``<run>/search.html``.
        gallery: what to search instead of the run's gallery, as of :func:`open_gallery`.
        data: where the run's data set lies now; None: where it was trained.

    Raises:
        ConfigError, EvaluationError: as ``index_run``, or no index of that kind, or one that does
            not belong to the gallery; neither images nor texts, or both.
        NetworkError: the run's embeddings cannot be compared with texts.
        DataError: a file is no picture.
    """
    _require_kind(kind)
    if bool(images) == bool(texts):
        raise EvaluationError("search: give either pictures (--image FILE) or words (--text TEXT)")
    run, folder = _opened(path, data)
    if kind != "flat" and gallery is None:
        _require_index(_index_folder(folder, kind), kind, _command(path, kind, None))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if texts:
        asked = embed_texts(run, texts, device=device)
    else:
        asked = embed_pictures(run, images, device=device)
    searched = open_gallery(run, folder, gallery)
    require_width(searched, asked)
    shapes = searched.embeddings
    stored, command = _index_folder(folder, kind, searched), _command(path, kind, gallery)
    if kind != "flat":
        _require_index(stored, kind, command)
    index = _index(stored, kind, shapes, configured_options(run), command)
    found = index.search(asked, k)
    origins = sample_origins([searched.data])
    target = html or (folder.path / "search.html" if open_page else None)
    if target is not None:
        with naming(target):
            _write_page(target, searched, images or texts, index, found, origins=origins)
        if open_page and not webbrowser.open(target.absolute().as_uri()):
            say(f"no browser found; open {shown(target)}")
    asked_for = [{"text": text} for text in texts] or [{"image": str(image)} for image in images]
    return {
        "run": str(shown(path)),
        "kind": kind,
        "k": found.indices.shape[1],
        "gallery": gallery or run.config.data.gallery.split,
        "items": len(shapes),
        "available": searched.available,
        "features": index.gallery.features,
        "metric": index.gallery.metric,
        "html": None if target is None else str(target),
        "answers": [
            {**query, "results": _results(shapes, rows, distances, origins)}
            for query, rows, distances in zip(
                asked_for, found.indices, found.distances, strict=True
            )
        ],
    }


def _require_kind(kind: str) -> None:
    if kind not in KINDS:
        raise EvaluationError(f"--kind {kind}: expected one of {', '.join(KINDS)}")


def _opened(path: Path, data: str | None) -> tuple[TrainedRun, RunFolder]:
    run = load_run(path, data=data)
    require_same_data(run)
    return run, results_folder(path, run)


def _embeddings(run: TrainedRun, folder: RunFolder, sides: Sequence[str]) -> list[Embeddings]:
    streams = [configured_stream(run, side) for side in sides]
    return [parts.read() for parts in embed(run, folder.embeddings, streams)]


def _index_folder(folder: RunFolder, kind: str, gallery: Gallery | None = None) -> Path:
    """Of the run's own gallery, or of another one under its name."""
    name = gallery.name if gallery is not None else ""
    return folder.path / f"index-{kind}{f'-{name}' if name else ''}"


def _command(path: Path, kind: str, gallery: str | None) -> str:
    """The command that builds an index."""
    other = f" --gallery {gallery}" if gallery is not None else ""
    return f"`img2shape index {shown(path)} --kind {kind}{other}`"


def _require_index(stored: Path, kind: str, command: str) -> None:
    if not (stored / DESCRIPTION).is_file():
        raise EvaluationError(f"{shown(stored)}: no {kind} index; {command} builds it")


def _index(
    stored: Path, kind: str, gallery: Embeddings, options: Options, command: str
) -> SearchIndex:
    """The index in ``stored``, or a flat one built now."""
    if not (stored / DESCRIPTION).is_file():
        return build_index(gallery, kind, **options.space)
    try:
        return read_index(stored, gallery, **options.space)
    except EvaluationError as error:
        raise EvaluationError(f"{error}: {command}") from None


def _results(
    gallery: Embeddings,
    rows: Sequence[int],
    distances: Sequence[float],
    origins: Mapping[str, str],
) -> list[dict[str, Any]]:
    return [
        {
            "rank": rank,
            "key": gallery.keys[row],
            "origin": origins.get(gallery.keys[row], gallery.keys[row]),
            "label": gallery.labels[row],
            "distance": float(distance),
        }
        for rank, (row, distance) in enumerate(zip(rows, distances, strict=True), start=1)
    ]


def _write_page(
    target: Path,
    searched: Gallery,
    queries: Sequence[Path] | Sequence[str],
    index: SearchIndex,
    found: Neighbours,
    *,
    origins: Mapping[str, str],
) -> None:
    from evalsuite.pages import Answer, Hit, Thumb, data_uri, write_search_page  # loads matplotlib

    gallery = searched.embeddings
    keys = [gallery.keys[row] for row in dict.fromkeys(found.indices.ravel().tolist())]
    with task("reading the pictures"):
        encoded = SamplePictures([searched.data])(keys)
    sources = {key: data_uri(key, content) for key, content in encoded.items()}

    def hit(row: int, distance: float) -> Hit:
        key = gallery.keys[row]
        thumb = Thumb(
            key,
            gallery.labels[row],
            right=True,
            source=sources.get(key, ""),
            origin=origins.get(key, ""),
        )
        return Hit(thumb, distance)

    thumbs = [
        Thumb(query, query, True)
        if isinstance(query, str)
        else Thumb(str(query), query.name, True, data_uri(str(query), thumbnail(query)))
        for query in queries
    ]
    answers = [
        Answer(thumb, tuple(map(hit, rows.tolist(), distances.tolist())))
        for thumb, rows, distances in zip(thumbs, found.indices, found.distances, strict=True)
    ]
    write_search_page(
        target,
        answers,
        title=thumbs[0].label if len(thumbs) == 1 else f"{len(thumbs)} queries",
        metric=index.gallery.metric,
        items=len(gallery),
        kind=index.kind,
    )


def print_search(result: Mapping[str, Any]) -> None:
    """One table per picture or text: rank, distance, class, and where the shape came from."""
    console = standard_output()
    for answer in result["answers"]:
        table = Table(box=box.SIMPLE_HEAD, title=escape(answer.get("image") or answer["text"]))
        table.add_column("rank", justify="right")
        table.add_column(f"{result['metric']} distance", justify="right")
        for name in ("class", "origin"):
            table.add_column(name, overflow="fold")
        for hit in answer["results"]:
            # Names may hold brackets, rich's markup.
            cells = Text(hit["label"]), Text(hit["origin"])
            table.add_row(str(hit["rank"]), f"{hit['distance']:.4g}", *cells)
        console.print(table)
    available = result["available"]
    if available is not None and result["items"] < available:
        items = result["items"]
        say(f"{items} of {available} shapes are searched; --gallery all searches all")
    if result["html"]:
        say(f"page: {shown(Path(result['html']))}")


def print_index(result: Mapping[str, Any]) -> None:
    """What was built, and of an approximate index what it costs and gains."""
    chosen = ", ".join(f"{name} {value}" for name, value in result["parameters"].items())
    say(
        f"{result['kind']} index of {result['items']} shapes{f' ({chosen})' if chosen else ''} "
        f"in {result['folder']}"
    )
    report = result.get("report")
    if report is None:
        return
    speed = report["speed"]
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=f"{report['queries']} queries, lists of {report['k']} of {report['items']} shapes",
    )
    table.add_column("metric")
    for name in ("exact", "approximate", "change"):
        table.add_column(name, justify="right")
    for name in HEADLINES:
        if name in report["metrics"]:
            values = report["metrics"][name]
            table.add_row(
                name,
                f"{values['exact']:.4f}",
                f"{values['approximate']:.4f}",
                f"{values['change']:+.4f}",
            )
    standard_output().print(table)
    recalls = ", ".join(f"@{k} {value:.4f}" for k, value in report["recall"].items())
    say(f"recall {recalls}")
    say(
        f"speed-up over flat {speed['speed_up']:.2f}x: {speed['index_seconds']:.3f} s against "
        f"{speed['flat_seconds']:.3f} s for {speed['queries']} queries, k={speed['k']}, "
        f"{speed['threads']} threads, median of {speed['repeats']}"
    )
    if report["widened"]:
        say(
            f"for {report['widened']} queries the index had to look further than its parameters "
            f"say to have {report['k']} answers"
        )
    if report["not_given"]:
        reason = next(iter(report["not_given"].values()))
        say(f"not given: {', '.join(report['not_given'])} ({reason})")
