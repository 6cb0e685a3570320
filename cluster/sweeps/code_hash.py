"""Which code a number comes from: a hash of what computes it, blind to comments and layout."""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from pathlib import Path

import dataio
import evalsuite
import trainer

PACKAGES = (dataio, evalsuite, trainer)


@lru_cache
def code_version() -> str:
    """Hash (12 hex digits) of the packages that shape a run's numbers."""
    roots = [Path(str(package.__file__)).parent for package in PACKAGES]
    return version_of(
        {
            f"{root.name}/{path.relative_to(root).as_posix()}": path.read_text()
            for root in roots
            for path in root.rglob("*.py")
        }
    )


def version_of(sources: dict[str, str]) -> str:
    """Hash of Python sources by name; comments, docstrings and line breaks do not count."""
    digest = hashlib.sha256()
    for name in sorted(sources):
        tree = ast.parse(sources[name])
        for node in ast.walk(tree):
            _without_docstring(node)
        digest.update(f"{name}\0{ast.dump(tree)}\0".encode())
    return digest.hexdigest()[:12]


def _without_docstring(node: ast.AST) -> None:
    body = getattr(node, "body", None)
    if not (isinstance(body, list) and body and isinstance(body[0], ast.Expr)):
        return
    value = body[0].value
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        del body[0]
