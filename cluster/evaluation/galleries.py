"""Which shapes a search looks at: the run's gallery, another split of its data set, or a folder."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from cluster.evaluation.extraction import configured_stream, embed
from cluster.evaluation.extractor import EmbeddingStream
from cluster.terminal import shown
from dataio.records import slug
from dataio.shards import MANIFEST_NAME, exists
from evalsuite.vectors import Embeddings, EvaluationError, is_finished, read_embeddings
from trainer.extraction import TrainedRun
from trainer.inputs import OpenData, differing_renderings
from trainer.runs import RunFolder
from trainer.sections import Selection

SPLITS = get_args(Selection.model_fields["split"].annotation)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Gallery:
    """The shapes that are searched.

    Attributes:
        embeddings: of the shapes, by the run's network.
        data: where their origins and pictures are looked up.
        name: of the folders that belong to it; empty for the run's own gallery.
        asked: the words of ``--gallery``; None for the run's own gallery.
        available: shapes of all splits of the run's data set; None for a folder.
    """

    embeddings: Embeddings
    data: OpenData
    name: str = ""
    asked: str | None = None
    available: int | None = None


def open_gallery(run: TrainedRun, folder: RunFolder, asked: str | None) -> Gallery:
    """The gallery of ``run`` that ``--gallery`` names.

    Args:
        folder: its embeddings are kept there.
        asked: None: what the run says; a split, or ``all`` of them; the folder of a packed data
            set, whose shapes are all embedded; or embeddings that ``embed`` or another program
            wrote.

    Raises:
        ConfigError: the data set has no shapes of that split.
        DataError: a data set cannot be read.
        EvaluationError: no such folder, or embeddings that are not of this run's network or not of
            shapes, as far as they say it.
    """
    if asked is None or asked in SPLITS:
        return _split(run, folder, asked)
    if exists(asked, MANIFEST_NAME):
        return _packed(run, folder, asked)
    if Path(asked).exists():
        embeddings = _embeddings(run, Path(asked))
        name = _folder_name(Path(asked).resolve().as_posix())
        return Gallery(embeddings, _behind(run, embeddings), name, asked)
    raise EvaluationError(
        f"--gallery {asked}: no such folder; expected {', '.join(SPLITS)}, or the folder of a "
        "packed data set or of embeddings"
    )


def require_width(gallery: Gallery, queries: Embeddings) -> None:
    """Check that both have vectors of as many components.

    Raises:
        EvaluationError: they have not, so that different networks made them.
    """
    found, wanted = gallery.embeddings.width, queries.width
    if found != wanted:
        raise EvaluationError(
            f"--gallery {gallery.asked}: embeddings of {found} components, but those of this run "
            f"have {wanted}; {_EMBED_AGAIN}"
        )


_EMBED_AGAIN = "--gallery FOLDER of their packed data set embeds these shapes with this run"


def _split(run: TrainedRun, folder: RunFolder, asked: str | None) -> Gallery:
    stream = configured_stream(run, "gallery", split=asked)
    if asked is not None:
        run.data.require_samples(
            stream.selection,
            key=f"--gallery {asked}",
            name="gallery",
            remedy="choose one of these, or all",
        )
    [parts] = embed(run, folder.embeddings, [stream])
    name = stream.name.removeprefix("gallery").lstrip("-")
    return Gallery(parts.read(), _showing(run, stream), name, asked, _available(run))


def _available(run: TrainedRun) -> int:
    """Shapes of all splits of the run's gallery data set."""
    selection = run.config.data.gallery
    manifest = run.data.manifest(selection)
    held = manifest.streams == selection.stream
    if run.config.data.restrict:
        held &= np.isin(manifest.labels, run.data.classes)
    return int(held.sum())


def _packed(run: TrainedRun, folder: RunFolder, root: str) -> Gallery:
    selection = Selection(stream="shape", split="all", root=root)
    run.data.require_samples(
        selection, key=f"--gallery {root}", name="gallery", remedy="choose another folder"
    )
    name = _folder_name(run.data.manifest(selection).fingerprint, Path(root).name)
    stream = EmbeddingStream(f"gallery-{name}", selection)
    data = _showing(run, stream)
    for difference in differing_renderings(data):
        logger.warning("%s", difference)
    [parts] = embed(run, folder.embeddings, [stream])
    return Gallery(parts.read(), data, name, root)


def _showing(run: TrainedRun, stream: EmbeddingStream) -> OpenData:
    """The run's data with the shapes of ``stream`` as gallery."""
    section = run.config.data.model_copy(update={"gallery": stream.selection})
    return OpenData(run.config.model_copy(update={"data": section}))


def _behind(run: TrainedRun, embeddings: Embeddings) -> OpenData:
    """The run's data with the split as gallery that ``embed`` says it has embedded."""
    stream = _facts(embeddings)[3:4]
    split = stream[0].partition("/")[2] if stream else None
    if split not in SPLITS:
        return run.data
    return _showing(run, configured_stream(run, "gallery", split=split))


def _facts(embeddings: Embeddings) -> list[str]:
    """What ``embed`` notes (``parts_fingerprint``): weights, training data, state, stream/split and
    more; empty for those of other programs."""
    facts = embeddings.metadata.get("fingerprint", "").split(":")
    return facts if len(facts) >= 6 and facts[2] in ("initial", "trained") else []


def _folder_name(content: str, name: str | None = None) -> str:
    """A name for files about a folder: its own, and a digest of what it is."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{slug(name or Path(content).name)}-{digest}"


def _embeddings(run: TrainedRun, path: Path) -> Embeddings:
    """The shapes in ``path``, or in its folder ``gallery``, which ``embed --out`` writes."""
    inner = path / "gallery"
    if path.is_dir() and not is_finished(path) and is_finished(inner):
        path = inner
    if path.is_dir() and not is_finished(path) and not list(path.glob("*.parquet")):
        raise EvaluationError(
            f"--gallery {path}: holds neither {MANIFEST_NAME}, as a packed data set does, nor "
            "embeddings, as `img2shape embed` writes them; name such a folder"
        )
    found = read_embeddings(path)
    _require_shapes_of(run, _facts(found), where=f"--gallery {path}")
    return found


def _require_shapes_of(run: TrainedRun, facts: list[str], *, where: str) -> None:
    """Check what ``embed`` noted of its network and stream; others note nothing."""
    if not facts:
        logger.warning(
            "%s: says nothing of the network that made it; distances mean something only if it was "
            "this run's",
            where,
        )
        return
    if ":".join(facts[:3]) != f"{run.fingerprint}:trained":
        raise EvaluationError(
            f"{where}: made by other weights than {shown(run.checkpoint.path)}; {_EMBED_AGAIN}"
        )
    stream = facts[3].partition("/")[0]
    if stream != "shape":
        raise EvaluationError(
            f"{where}: embeddings of the stream {stream}, not of shapes; name a folder of shapes, "
            "such as RUN/embeddings/gallery"
        )
