"""Write the pages of the documentation site: the documents, and what the program says of itself.

    python docs/generate.py build/docs

copies ``docs`` to the given folder, adds CHANGELOG.md and CONTRIBUTING.md, and fills the places
``<!-- generated: NAME -->``: the command line from the typer application, the configuration keys
and the methods from the pydantic models, data sets from the program's own ``--json`` output, the
names of the Python interface from ``img2shape``. ``method NAME`` is a method's paper and streams,
``options NAME`` the table of its options. Lines ``option: text`` before the closing ``-->`` say
where each default comes from, and give the table a column of sources. Formulas in blocks of
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

PLACE = re.compile(r"^<!-- generated: ([\w-]+)(?: ([\w-]+))?(?:\n(.*?))? ?-->$", re.M | re.S)
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
        text = PLACE.sub(_filled, page.read_text())
        page.write_text(MATH.sub(lambda found: _formula(found[1]), text))


def _filled(place: re.Match[str]) -> str:
    """What stands at a generated place."""
    name, method, sources = place.groups()
    if name == "options":
        return method_options(method, option_sources(sources))
    return method_facts(method) if name == "method" else PAGES[name]()


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
    """A table of all methods, each with a link to the page that has its options."""
    rows = []
    for name, page in pages_of_methods().items():
        method = METHODS[name]
        link = f"../methods/{page}.md" + (f"#{name}" if page == "baselines" else "")
        summary = re.split(r"[.:](?:\s|$)", _plain(method.Config.__doc__), maxsplit=1)[0]
        rows.append((f"[`{name}`]({link})", summary, _escaped(method.paper), _streams(method)))
    return _table(("method", "what it is", "paper", "trains on"), rows)


def pages_of_methods() -> dict[str, str]:
    """The page of ``docs/methods`` that has the options of each method, in the methods' order.

    Raises:
        ValueError: a page speaks of a method that there is not, or a method has no page.
    """
    pages = {
        place[2]: page.stem
        for page in sorted((ROOT / "docs" / "methods").glob("*.md"))
        for place in PLACE.finditer(page.read_text())
        if place[1] == "options"
    }
    own = [name for name in METHODS if METHODS.origin(name) is None]
    if wrong := {*pages} ^ {*own}:
        raise ValueError(
            f"docs/methods: the places 'generated: options METHOD' and the methods differ in "
            f"{', '.join(sorted(wrong))}; add or remove the place"
        )
    return {name: pages[name] for name in own}


def method_facts(name: str) -> str:
    """Paper, file, streams and own defaults of one method, as a list."""
    method = METHODS[name]
    settings = [
        f"`{section}.{key}={_value(value)}`"
        for section, values in method.defaults.items()
        for key, value in values.items()
    ]
    return (
        f"- Paper: {_escaped(method.paper)}\n"
        f"- File: `{Path(inspect.getfile(method)).relative_to(ROOT)}`\n"
        f"- Trains on: {_streams(method)}\n"
        f"- Its own defaults: {', '.join(settings) or 'none'}"
    )


def _streams(method: type[Method]) -> str:
    return ", ".join(
        f"{'labelled' if need.labelled else 'unlabelled'} {need.modality}s (`{name}`)"
        for name, need in method.streams.items()
    )


def option_sources(text: str | None) -> dict[str, str] | None:
    """Lines ``option: where its default comes from``; None where a page gives none."""
    if text is None:
        return None
    pairs = (line.partition(": ") for line in text.splitlines() if line.strip())
    return {name.strip(): source.strip() for name, _, source in pairs}


def method_options(name: str, sources: dict[str, str] | None = None) -> str:
    """The table of one method's options, keys of section ``method``.

    Raises:
        ValueError: ``sources`` leaves an option out, or names one that there is not.
    """
    fields = METHODS[name].Config.model_fields
    head, rows = ["option", "values", "default", "meaning"], []
    if sources is not None:
        if wrong := {*sources} ^ {*fields}:
            raise ValueError(
                f"docs/methods: the sources of {name}'s options and its options differ in "
                f"{', '.join(sorted(wrong))}; add or remove the line"
            )
        head.append("source")
    for option, field in fields.items():
        row = [f"`{option}`", *_facts(field)]
        rows.append(row if sources is None else [*row, _escaped(sources[option])])
    return _table(head, rows)


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
