"""A griffe extension: docstrings become Markdown, which is what the site's pages are written in.

Roles, as in :class:`Losses`, become plain code. Two colons before a literal block become one.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?")
LITERAL_BLOCK = re.compile(r"::(?=\n\n +\S)")


class PlainRoles(griffe.Extension):
    """Rewrites the docstring of every object; griffe tells a whole package apart from the rest."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        _rewrite(obj)

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        _rewrite(pkg)


def _rewrite(obj: griffe.Object) -> None:
    if obj.docstring is not None:
        text = ROLE.sub("`", obj.docstring.value)
        obj.docstring.value = LITERAL_BLOCK.sub(":", text)
