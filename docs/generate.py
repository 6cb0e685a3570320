"""Write the pages of the documentation site: the documents, and what the program says of itself.

    python docs/generate.py build/docs

copies ``docs`` to the given folder, adds CHANGELOG.md and CONTRIBUTING.md, and fills the places
``<!-- generated: NAME -->`` of the reference pages: the command line from the typer application,
the configuration keys from the pydantic models, methods and data sets from the program's own
``--json`` output, the names of the Python interface from ``img2shape``. Formulas in blocks of
``math`` become MathML, so that the site needs no script for them. ``make docs`` then builds the
site from that folder.
"""

from __future__ import annotations

import dataclasses
import html
import inspect
import json
import re
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import annotated_types
from latex2mathml.converter import convert
from pydantic import BaseModel
from pydantic.fields import FieldInfo

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import img2shape  # noqa: E402
from trainer.config import RunConfig, Transfer  # noqa: E402
from trainer.methods import METHODS, Method  # noqa: E402

PLACE = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.M)
ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):(?=`)")
MATH = re.compile(r"^```math\n(.*?)^```$", re.M | re.S)


def main(target: Path) -> None:
    """Write every page of the site below ``target``, which is made anew."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(ROOT / "docs", target, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    _add(target / "evidence" / "changelog.md", ROOT / "CHANGELOG.md", up="../")
    _add(target / "contributing.md", ROOT / "CONTRIBUTING.md", up="")
    for page in sorted(target.rglob("*.md")):
        text = PLACE.sub(lambda found: PAGES[found[1]](), page.read_text())
        page.write_text(MATH.sub(lambda found: _formula(found[1]), text))


def _add(page: Path, source: Path, *, up: str) -> None:
    """Copy a document of the repository's root; its links to ``docs`` start at ``up``."""
    page.write_text(source.read_text().replace("](docs/", f"]({up}"))


def _formula(latex: str) -> str:
    return f'<div class="formula">{convert(" ".join(latex.split()), display="block")}</div>'


# The command line.


def command_line() -> str:
    """Every command with its arguments and options, as typer documents an application."""
    (module,) = re.findall(r'^img2shape = "(.*):', (ROOT / "pyproject.toml").read_text(), re.M)
    command = (sys.executable, "-m", "typer", module, "utils", "docs", "--name", "img2shape")
    text = _output(command)
    text = text.partition("**Commands**")[2].partition("\n## ")[2]  # the list stands in the margin
    example = r"Example:\n\n```console\n$ \1\n```"
    return re.sub(r"^Example: (img2shape .*)$", example, f"## {text}", flags=re.M)


# Configuration keys.


def configuration() -> str:
    """A table of keys for every section of a run description."""
    parts = [_section("transfer", Transfer)]
    for name, field in RunConfig.model_fields.items():
        model = _model(field.annotation)
        if model is not None and name != "method":
            parts.append(_section(name, model))
    return "\n".join(parts)


def _section(prefix: str, model: type[BaseModel], *, level: int = 2) -> str:
    """The keys of ``model``; those of a model inside it follow in a table of their own."""
    rows, inner = [], []
    for name, field in model.model_fields.items():
        rows.append((f"`{prefix}.{name}`", *_facts(field)))
        nested = _model(field.annotation)
        if nested is not None and nested.__name__ not in {m.__name__ for _, m in inner}:
            inner.append((f"{prefix}.{name}", nested))
    head = f"{'#' * level} `{prefix}`\n\n{_plain(model.__doc__)}\n\n"
    table = _table(("key", "values", "default", "meaning"), rows)
    return head + table + "".join(f"\n{_section(key, m, level=level + 1)}" for key, m in inner)


def _facts(field: FieldInfo) -> tuple[str, str, str]:
    if field.is_required():
        default = "required"
    elif dataclasses.is_dataclass(field.default):
        default = "see below"
    else:
        default = f"`{_value(field.default)}`"
    return _kind(field), default, _escaped(field.description or "")


def _kind(field: FieldInfo) -> str:
    """Type and bounds of a field: ``int, ≥ 1``."""
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for kind, name, sign in BOUNDS
        if isinstance(bound, kind)
    ]
    return ", ".join([_type(field.annotation), *bounds])


BOUNDS = (
    (annotated_types.Ge, "ge", "≥"),
    (annotated_types.Gt, "gt", ">"),
    (annotated_types.Le, "le", "≤"),
    (annotated_types.Lt, "lt", "<"),
    (annotated_types.MultipleOf, "multiple_of", "a multiple of"),
)


def _type(annotation: Any) -> str:
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(arg) for arg in args)
    if origin is tuple:
        return f"list of {_type(args[0])}" if args[-1] is Ellipsis else "list"
    if origin is dict:
        return f"mapping of {_type(args[0])} to {_type(args[1])}"
    if annotation is type(None):
        return "`null`"
    names = {str: "text", float: "number", int: "whole number", bool: "`true`, `false`"}
    return names.get(annotation, "section")


def _value(default: Any) -> str:
    if isinstance(default, BaseModel):
        return json.dumps(default.model_dump(mode="json", exclude_none=True)).replace('"', "")
    return json.dumps(default).strip('"')


def _model(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds, alone or as one of several types."""
    for kind in (annotation, *typing.get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


# Methods and data sets.


def methods() -> str:
    """Every method: paper, streams, its own defaults, options."""
    return "\n".join(_method(method) for method in METHODS.values())


def _method(method: type[Method]) -> str:
    streams = [
        f"{'labelled' if need.labelled else 'unlabelled'} {need.modality}s (`{name}`)"
        for name, need in method.streams.items()
    ]
    settings = [
        f"`{section}.{key}={_value(value)}`"
        for section, values in method.defaults.items()
        for key, value in values.items()
    ]
    rows = [
        (f"`method.{name}`", *_facts(field)) for name, field in method.Config.model_fields.items()
    ]
    summary = _plain(method.Config.__doc__).rstrip(".")
    return (
        f"## `{method.name}`\n\n{summary}. {_escaped(method.paper)}.\n\n"
        f"- File: `{Path(inspect.getfile(method)).relative_to(ROOT)}`\n"
        f"- Trains on: {', '.join(streams)}\n"
        f"- Its own defaults: {', '.join(settings) or 'none'}\n\n"
        + _table(("key", "values", "default", "meaning"), rows)
    )


def data_sets() -> str:
    """Every data set that can be packed: the tree that is expected, terms, options."""
    parts = []
    for listed in _json("data", "sets")["sets"]:
        one = _json("data", "sets", listed["name"])
        rows = [
            (
                f"`-o {option['name']}`",
                _escaped(option["type"]),
                f"`{_value(option['default'])}`",
                _escaped(option["description"]),
            )
            for option in one.get("options", ())
        ]
        parts.append(
            f"## `{one['name']}`\n\n{_escaped(one['title'])}\n\n"
            f"```text\n{one['layout']}\n```\n\nTerms: {_escaped(one['terms'])}\n"
            + ("\n" + _table(("option", "values", "default", "meaning"), rows) if rows else "")
        )
    return "\n".join(parts)


# The Python interface.


def python_names() -> str:
    """Every name of ``import img2shape`` with the first sentence of its docstring."""
    rows = []
    for name in img2shape.__all__:
        value = getattr(img2shape, name)
        summary = (inspect.getdoc(value) or "").partition("\n\n")[0]
        sentence = re.split(r"(?<=\w\.)\s+(?=[A-Z])", ROLE.sub("", summary), maxsplit=1)[0]
        place = value.__name__ if inspect.ismodule(value) else _class_of(value).__module__
        rows.append((f"`{name}`", f"`{place}`", _plain(sentence)))
    return _table(("name", "defined in", "what it is"), rows)


def _class_of(value: Any) -> Any:
    """A class or function itself, and the class of any other value."""
    return value if hasattr(value, "__name__") else type(value)


# How pages are written.


def _json(*words: str) -> Any:
    """The object that ``img2shape words --json`` prints."""
    return json.loads(_output((sys.executable, "-m", "cluster", *words, "--json")))


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in _lines(head, rows))


def _lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    yield head
    yield ["---"] * len(head)
    for row in rows:
        yield [cell.replace("|", "\\|").replace("\n", " ") for cell in row]


def _plain(docstring: str | None) -> str:
    return _escaped(" ".join((docstring or "").split()).replace("``", "`"))


def _escaped(text: str) -> str:
    return html.escape(text, quote=False)


PAGES = {
    "command-line": command_line,
    "configuration": configuration,
    "data-sets": data_sets,
    "methods": methods,
    "python": python_names,
}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
