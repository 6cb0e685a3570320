"""Where the pages' templates come from; ``page.html.j2`` holds what all of them share."""

from __future__ import annotations

import jinja2


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
