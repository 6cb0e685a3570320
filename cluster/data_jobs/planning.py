"""``img2shape data explain`` and ``data replay``: what a run will read, as terminal tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from cluster.tables import rates_line, standard_output


def print_explanation(facts: Mapping[str, Any]) -> None:
    """Tables of :func:`trainer.explain.explain_run`, then its warnings."""
    console = standard_output()
    title = f"{facts['method']}: {facts['steps']} steps on {facts['world_size']} workers"
    console.print(_data_table(facts, title=title))
    console.print(_reading_table(facts))
    for name, stream in facts["streams"].items():
        if not stream["drawn"]:
            line = f"{name}: looked at as a whole, all views, never in batches"
            console.print(Text(line), soft_wrap=True)
    if facts["mapping"]:
        console.print(_mapping_table(facts["mapping"]))
    lines = [
        *(
            f"trunk of {trunk['of']}: {trunk['backbone']}, weights {trunk['weights']}, trained: "
            f"{trunk['train']}; {trunk['image_size']} pixels, {trunk['pictures']}"
            for trunk in facts["trunks"]
        ),
        rates_line(facts["rates"]),
        f"without a cache the run reads {decimal(facts['run_bytes'])}; all samples decoded take "
        f"{decimal(facts['cache_bytes'])} (training.cache={facts['cache']}, memory "
        f"{decimal(facts['memory_bytes'])})",
        *(f"warning: {warning}" for warning in facts["warnings"]),
    ]
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def _data_table(facts: Mapping[str, Any], *, title: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title)
    for name in ("", "data set", "stream/split", "labels"):
        table.add_column(name, overflow="fold")
    for name in ("samples", "classes", "shards", "size"):
        table.add_column(name, justify="right")
    evaluated = {name: facts[name] for name in ("queries", "gallery")}
    for name, stream in {**facts["streams"], **evaluated}.items():
        labels = "used" if stream.get("labelled", True) else "hidden"
        cells = (name, stream["data_set"], f"{stream['stream']}/{stream['split']}", labels)
        numbers = (stream["samples"], stream["classes"], stream["shards"])
        table.add_row(*map(Text, cells), *map(str, numbers), decimal(stream["pass_bytes"]))
    return table


def _reading_table(facts: Mapping[str, Any]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption="passes: how often a sample comes up in the run")
    table.add_column("training stream", overflow="fold")
    names = ("batch", "per worker", "steps a pass", "passes", "last batch", "padding")
    for name in (*names, "shards at once", "read", "decoded"):
        table.add_column(name, justify="right")
    for name, stream in facts["streams"].items():
        if stream["drawn"]:
            table.add_row(Text(name), *_reading_cells(stream))
    return table


def _reading_cells(stream: Mapping[str, Any]) -> list[str]:
    few, many = stream["rows_per_worker"]
    balanced = stream["balance"] is not None
    return [
        str(stream["batch"]),
        str(few) if few == many else f"{few} - {many}",
        "–" if balanced else str(stream["steps_per_pass"]),
        f"{'≈ ' if balanced else ''}{stream['passes']:.1f}",
        "–" if balanced else str(stream["last_batch"]),
        str(stream["padding"]),
        str(stream["shards_at_once"]),
        f"{'≈ ' if balanced else ''}{decimal(stream['run_bytes'])}",
        decimal(stream["cache_bytes"]),
    ]


def _mapping_table(mapping: Mapping[str, Mapping[str, list[str]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, caption="names that stand for a class")
    table.add_column("class", overflow="fold")
    for data_set in next(iter(mapping.values())):
        table.add_column(Text(data_set), overflow="fold")
    for name, names in mapping.items():
        table.add_row(Text(name), *(Text(", ".join(found) or "–") for found in names.values()))
    return table


def print_replay(result: Mapping[str, Any]) -> None:
    """The samples of :func:`trainer.explain.replay_step`, a table for each stream."""
    for name, stream in result["streams"].items():
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"{name}: step {result['step']} of {result['steps']}, {len(stream['keys'])} rows",
        )
        for column in ("row", "worker", "pass"):
            table.add_column(column, justify="right")
        table.add_column("sample", overflow="fold")
        if stream["views"] is not None:
            table.add_column("views", overflow="fold")
        for worker, (start, end) in enumerate(stream["parts"]):
            for row in range(start, end):
                table.add_row(str(row), str(worker), *_sample_cells(stream, row))
        standard_output().print(table)


def _sample_cells(stream: Mapping[str, Any], row: int) -> list[Text]:
    cells = [str(stream["passes"][row]), stream["keys"][row]]
    if stream["views"] is not None:
        cells.append(" ".join(map(str, stream["views"][row])))
    return [Text(cell) for cell in cells]
