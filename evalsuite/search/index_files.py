"""An index in a folder: FAISS's file, and a description that says what it is an index of.

``index.json`` names the FAISS file and holds its SHA-256, the kind, parameters and options, the
fingerprint of the gallery's embeddings, its keys and labels in the order of FAISS's ids, and
versions. FAISS's file has a name of its own for each content and the description is replaced last,
so a reader finds the old index or the new one.

FAISS does not check what it reads: a damaged file can crash it. A file is given to FAISS only if it
has the hash that the description says. That finds damage and mix-ups. A person who can write both
files can still make FAISS read anything, so read indexes only from folders that you trust.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from evalsuite.atomic import write_atomically, write_text_atomically
from evalsuite.search.exact import SearchIndex
from evalsuite.search.faiss_library import faiss_module
from evalsuite.search.indexes import restore_index
from evalsuite.vectors import Embeddings, EvaluationError

DESCRIPTION = "index.json"
FORMAT = 1
_FIELDS = {
    "kind": str,
    "parameters": dict,
    "features": str,
    "metric": str,
    "gallery": str,
    "file": str,
    "sha256": str,
}


def gallery_fingerprint(gallery: Embeddings) -> str:
    """SHA-256 over the keys, labels and vectors of ``gallery`` in their order, in hexadecimal."""
    digest = hashlib.sha256(f"{len(gallery)} {gallery.width}".encode())
    for texts in (gallery.keys, gallery.labels):
        for text in texts:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(f" {len(encoded)} ".encode() + encoded)
    digest.update(np.ascontiguousarray(gallery.vectors, dtype="<f4").data)
    return digest.hexdigest()


def write_index(
    folder: str | Path,
    index: SearchIndex,
    gallery: Embeddings,
    *,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``index``, built over ``gallery``, into ``folder``; returns the description's path.

    ``about``, plain JSON values, joins the description. It may hold measurements, for example. An
    index that is already in the folder is replaced.
    """
    folder = Path(folder)
    content = faiss_module().serialize_index(index.searcher.index)
    digest = hashlib.sha256(content.data).hexdigest()
    name = f"index-{digest[:16]}.faiss"
    description = {
        **(about or {}),
        "format": FORMAT,
        "kind": index.kind,
        "parameters": index.parameters,
        "features": index.gallery.features,
        "metric": index.gallery.metric,
        "gallery": gallery_fingerprint(gallery),
        "file": name,
        "sha256": digest,
        "versions": {"faiss": faiss_module().__version__, "numpy": metadata.version("numpy")},
        "keys": gallery.keys,
        "labels": gallery.labels,
    }
    text = json.dumps(description, ensure_ascii=True, allow_nan=False)
    write_atomically(folder / name, lambda path: path.write_bytes(content.data))
    write_text_atomically(folder / DESCRIPTION, text + "\n")
    for old in folder.glob("index-*.faiss"):
        if old.name != name:
            old.unlink(missing_ok=True)
    return folder / DESCRIPTION


def read_description(folder: str | Path) -> dict[str, Any]:
    """The content of ``index.json``.

    Raises ``EvaluationError``: none there, not readable, or of another format.
    """
    path = Path(folder) / DESCRIPTION
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EvaluationError(f"{folder}: no index; build it") from None
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"{path}: not readable ({reason}); build the index again") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise EvaluationError(f"{path}: not an index of format {FORMAT}; build it again")
    wrong = [name for name, kind in _FIELDS.items() if not isinstance(found.get(name), kind)]
    numbers = [] if wrong else found["parameters"].values()
    if wrong or any(type(value) is not int for value in numbers):
        field = wrong[0] if wrong else "parameters"
        raise EvaluationError(f"{path}: {field!r} is missing or damaged; build the index again")
    return found


def read_index(
    folder: str | Path, gallery: Embeddings, *, features: str, metric: str
) -> SearchIndex:
    """The index in ``folder``, which must be one of this ``gallery`` with these options.

    Raises ``EvaluationError`` with the remedy: none there, another gallery, other options, or a
    FAISS file that is missing or has another hash than the description says.
    """
    folder = Path(folder)
    found = read_description(folder)
    if found["gallery"] != gallery_fingerprint(gallery):
        raise EvaluationError(
            f"{folder}: is an index of other embeddings than the gallery's now; build it again"
        )
    for name, wanted in (("features", features), ("metric", metric)):
        if found[name] != wanted:
            raise EvaluationError(
                f"{folder}: was built with {name}={found[name]!r}, asked for {wanted!r}; "
                "build it again"
            )
    # The file is read once, so that FAISS gets the bytes that were hashed.
    content = _content(folder, found)
    try:
        index = faiss_module().deserialize_index(content)
        return restore_index(
            gallery,
            found["kind"],
            parameters=found["parameters"],
            features=features,
            metric=metric,
            index=index,
        )
    except (RuntimeError, EvaluationError) as error:
        reason = str(error).splitlines()[0]
        raise EvaluationError(f"{folder}: cannot be used ({reason}); build it again") from None


def _content(folder: Path, found: Mapping[str, Any]) -> np.ndarray:
    """The bytes of the FAISS file, uint8, checked against their hash."""
    path = folder / Path(found["file"]).name
    try:
        content = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise EvaluationError(
            f"{path}: cannot be read ({error.strerror}); build the index again"
        ) from None
    if hashlib.sha256(content.data).hexdigest() != found["sha256"]:
        raise EvaluationError(
            f"{path}: its hash is not the one in {DESCRIPTION}; build the index again"
        )
    return content
