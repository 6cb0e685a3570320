"""The data sets that can be packed, as plain values and as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from cluster.tables import print_fields, standard_output
from dataio.datasets import AdapterOptions, adapter, adapter_names
from trainer.fields import describe_fields


def describe_sets() -> list[dict[str, Any]]:
    """:func:`describe_set` of every data set, without the options."""
    return [{k: v for k, v in describe_set(n).items() if k != "options"} for n in adapter_names()]


def describe_set(name: str) -> dict[str, Any]:
    """One data set as JSON values: name, title, layout, terms, options.

    Raises:
        DataError: unknown name; the message names the nearest.
    """
    found = adapter(name)
    return {
        "name": found.name,
        "title": found.title,
        "layout": found.layout,
        "terms": found.terms,
        "options": describe_fields(found.options, common=AdapterOptions),
    }


def print_sets(sets: Sequence[Mapping[str, Any]]) -> None:
    """One line per data set."""
    table = Table(
        box=box.SIMPLE_HEAD, caption="img2shape data sets NAME shows one with its tree and options"
    )
    for name in ("data set", "what it is", "terms"):
        table.add_column(name, overflow="fold")
    for one in sets:
        table.add_row(*(Text(one[key]) for key in ("name", "title", "terms")))
    standard_output().print(table)


def print_set(one: Mapping[str, Any]) -> None:
    """One data set with its tree and all its options."""
    tree = "\n".join(f"    {line}" for line in one["layout"].strip().splitlines())
    text = f"{one['name']}: {one['title']}\nterms: {one['terms']}\n\n{tree}\n"
    standard_output().print(Text(text), soft_wrap=True)
    print_fields(one["options"], prefix="", caption="give each as -o KEY=VALUE")
