"""A griffe extension: roles of docstrings, as in :class:`Losses`, become plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`~?")


class PlainRoles(griffe.Extension):
    """Turns roles of Sphinx into Markdown, which is what the site's pages are written in."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub("`", obj.docstring.value)
