"""The pages' templates; ``page.html.j2`` holds what all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from evalsuite.atomic import write_text_atomically


def page_template(name: str) -> jinja2.Template:
    """The template file ``name``: every value is escaped, an unknown one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("evalsuite.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def render_page(out: str | Path, template: str, **values: Any) -> Path:
    """Fill ``template`` with ``values``, write it to ``out`` in one step, and return ``out``."""
    write_text_atomically(out, page_template(template).render(**values))
    return Path(out)
