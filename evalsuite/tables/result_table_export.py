"""A result table as words, Markdown, LaTeX, CSV and an HTML fragment.

Every form says the same: one line of caption, the numbers, and the notes below them. Labels and
reasons are escaped for the form they are written in.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evalsuite.tables.result_table import Line, ResultTable, Row, ToFull, Value

MISSING, DAGGER = "–", "†"
CSV_FIELDS = (
    *("table", "row", "side", "column", "metric", "value", "spread", "seeds", "low", "high"),
    *("published", "difference", "best", "average_rank", "oracle", "skipped"),
    *("to_full", "to_full_half_width", "to_full_published", "sign"),
)
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"±": r"$\pm$", "−": "$-$", "→": r"$\rightarrow$", "×": r"$\times$", "–": "--"},
    **{"[": "{[}", "]": "{]}"},  # a bracket at the start of a line would belong to the line break
    **{"†": r"$^{\dagger}$", "·": r"$\cdot$", "<": r"$<$", ">": r"$>$", "…": r"\ldots{}"},
}


@dataclass(frozen=True)
class TextLine:
    """One printed line: ``cells`` in the order of the table's places, ``best`` which are bold.

    ``label`` is empty on all but the first line of a row. ``side`` is ours, oracle †, published,
    interval, difference, minus full or sign.
    """

    label: str
    side: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    rank: str


def text_lines(table: ResultTable) -> list[TextLine]:
    """The table as plain words, nothing escaped: what a terminal prints."""
    found: list[TextLine] = []
    for row in table.rows:
        lines = [_words(table, line) for line in row.lines] or [_empty(table)]
        after_ours = 1 if lines[0].side == "ours" else 0
        lines[after_ours:after_ours] = _intervals(table, row)
        lines += [*_differences(table, row), *_to_full(table, row)]
        mark = f" {DAGGER}" if row.is_oracle and row.lines else ""
        first = lines[0]
        found.append(TextLine(row.label + mark, first.side, first.cells, first.best, first.rank))
        found += lines[1:]
    return found


def caption(table: ResultTable, *, confidence: float = 0.95) -> str:
    """One line: how checkpoints were chosen, how many seeds, what ± and [ ] and bold mean."""
    low, high = table.seeds
    said = []
    counted = ", ".join(column.name for column in table.columns if not column.trained)
    ours = any(line.side == "ours" for row in table.rows for line in row.lines)
    if counted and ours:
        said.append(f"{counted}: computed, without any training")
    if high:
        seeds = f"{low} seed{'s' * (low > 1)}" if low == high else f"{low} to {high} seeds"
        said.append(f"Ours: mean over {seeds}; checkpoint chosen by: {', '.join(table.selections)}")
    values = [value for row in table.rows for line in row.lines for value in line.values]
    if any(value.spread is not None for value in values):
        said.append("±: sample standard deviation over seeds")
    if any(value.interval for value in values):
        of_seeds = ", the seeds' bounds averaged" if high > 1 else ""
        said.append(f"[ ]: {100 * confidence:g} % bootstrap interval over the queries{of_seeds}")
    if any(row.to_full for row in table.rows):
        said.append(
            f"minus full: difference to the row {table.full}, the seeds in pairs, with its 95 % t "
            "interval; sign: whether it has the sign of the published difference"
        )
    if table.ranked and any(value.best for value in values):
        sides = {line.side for row in table.rows for line in row.lines}
        apart = ", ours and published apart" if "published" in sides else ""
        said.append(f"bold: best{apart}, shared by values equal to {table.decimals} decimals")
        said.append("rank: mean over all columns")
    return "; ".join(said) + "." if said else "No run and no published figure."


def footnotes(table: ResultTable) -> list[str]:
    """What stands below the numbers: the oracle's mark, notes, missing runs, partial ranks."""
    sides = {line.side for row in table.rows for line in row.lines}
    notes = []
    if "oracle" in sides or any(row.is_oracle and row.lines for row in table.rows):
        notes.append(
            f"{DAGGER} the checkpoint was chosen with the target's labels (oracle): an upper "
            "bound, never compared with the others"
        )
    notes += [f"{column.name}: {column.note}" for column in table.columns if column.note]
    for row in table.rows:
        if row.note:
            notes.append(f"{row.label}: {row.note}")
        notes += [f"{row.label}, {name}: {why}" for name, why in row.skipped.items()]
        for line in row.lines:
            if line.rank and line.rank.counted < line.rank.places:
                notes.append(
                    f"{row.label}, {line.side}: rank over {line.rank.counted} of "
                    f"{line.rank.places} columns"
                )
    return notes


def to_markdown(table: ResultTable) -> str:
    """A heading, the caption, one table, and the notes as a list."""
    heads = ["", "", *_heads(table), *_rank_head(table)]
    rows = [heads, ["---", "---", *["--:"] * (len(heads) - 2)]]
    for line in text_lines(table):
        cells = _bold(line, _markdown, lambda words: f"**{words}**")
        rank = [line.rank] if table.ranked else []
        rows.append([_markdown(line.label), _markdown(line.side), *cells, *rank])
    text = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "".join(f"\n- {_markdown(note)}" for note in footnotes(table))
    parts = [f"### {_markdown(table.title)}", _markdown(caption(table)), text]
    return "\n\n".join(parts) + ("\n" + notes if notes else "") + "\n"


def to_latex(table: ResultTable) -> str:
    r"""A ``table`` environment for ``\usepackage{booktabs}``."""
    head, rules, start = ["", ""], [], 3
    for column in table.columns:
        end = start + len(column.metrics) - 1
        head.append(rf"\multicolumn{{{len(column.metrics)}}}{{c}}{{{_latex(column.name)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{end}}}")
        start = end + 1
    ranked = [""] if table.ranked else []
    metrics = [_latex(place.metric) for place in table.places]
    body = []
    for line in text_lines(table):
        if line.label and body:
            body.append(r"\addlinespace")
        cells = _bold(line, _latex, lambda words: rf"\textbf{{{words}}}")
        rank = [_latex(line.rank)] if table.ranked else []
        body.append(_latex_row([_latex(line.label), _latex(line.side), *cells, *rank]))
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_latex(table.title)}. {_latex(caption(table))}}}",
            rf"\begin{{tabular}}{{ll{'r' * (len(metrics) + len(ranked))}}}",
            r"\toprule",
            _latex_row([*head, *ranked]),
            " ".join(rules),
            _latex_row(["", "", *metrics, *(["rank"] if table.ranked else [])]),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *(rf"\par\footnotesize {_latex(note)}" for note in footnotes(table)),
            r"\end{table}",
            "",
        ]
    )


def to_csv(table: ResultTable) -> str:
    """Long form, one line a value in full precision, and one for each skipped column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_FIELDS, lineterminator="\n")
    writer.writeheader()
    for row in table.rows:
        own = {"table": table.title, "row": row.label}
        for line in row.lines:
            compared = row.to_full if line.side == "ours" and row.to_full else None
            found = compared or (None,) * len(table.places)
            for place, value, full in zip(table.places, line.values, found, strict=True):
                if value.mean is not None:
                    side = {**own, "column": place.column, "metric": place.metric}
                    writer.writerow({**side, **_fields(row, line, value), **_full_fields(full)})
        for column, reason in row.skipped.items():
            writer.writerow({**own, "side": "ours", "column": column, "skipped": reason})
    return text.getvalue()


def to_html(table: ResultTable) -> str:
    """A fragment with every word escaped: heading, caption, table, notes. It needs no style.

    Columns stand below each other, each under its own head, so that none lies beyond a page.
    """
    heads = [_html_head(table, index) for index, _ in enumerate(table.columns)]
    bodies = [
        "".join(_html_line(table, line, span) for line in lines_of(table, span))
        for span in table.spans
    ]
    first = f"<thead>{heads[0]}</thead>\n<tbody>\n{bodies[0]}</tbody>\n"
    others = zip(heads[1:], bodies[1:], strict=True)
    groups = first + "".join(f"<tbody>\n{head}{body}</tbody>\n" for head, body in others)
    title = html.escape(table.title)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in footnotes(table))
    notes = f'<ul class="note">{notes}</ul>' if notes else ""
    return (
        f'<h3>{title}</h3>\n<p class="note">{html.escape(caption(table))}</p>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f'<table class="result-table">\n{groups}</table></div>\n{notes}\n'
    )


def lines_of(table: ResultTable, span: slice) -> list[TextLine]:
    """The lines that say something at the places ``span``, and the first of each row."""
    return [line for line in text_lines(table) if line.label or {*line.cells[span]} - {MISSING}]


def _words(table: ResultTable, line: Line) -> TextLine:
    cells = tuple(
        _cell(value, digits, most=table.seeds[1] if trained else 0)
        for value, digits, trained in zip(line.values, table.digits, table.trained, strict=True)
    )
    best = tuple(value.best for value in line.values)
    rank = MISSING if line.rank is None else f"{line.rank.average:.1f}"
    if line.rank and line.rank.counted < line.rank.places:
        rank += f" ({line.rank.counted} of {line.rank.places})"
    side = f"{line.side} {DAGGER}" if line.side == "oracle" else line.side
    return TextLine("", side, cells, best, rank if table.ranked else "")


def _empty(table: ResultTable) -> TextLine:
    count = len(table.places)
    rank = MISSING if table.ranked else ""
    return TextLine("", "ours", (MISSING,) * count, (False,) * count, rank)


def _intervals(table: ResultTable, row: Row) -> list[TextLine]:
    """A line of its own: beside the means it would make a table wider than a page."""
    values = next((line.values for line in row.lines if line.side == "ours"), ())
    if not any(value.interval for value in values):
        return []
    cells = tuple(
        _bounds(value.interval, digits) for value, digits in zip(values, table.digits, strict=True)
    )
    return [TextLine("", "interval", cells, (False,) * len(cells), "")]


def _bounds(interval: tuple[float, float] | None, decimals: int) -> str:
    if interval is None:
        return MISSING
    low, high = interval
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]".replace("-", "−")


def _differences(table: ResultTable, row: Row) -> list[TextLine]:
    values = next((line.values for line in row.lines if line.side == "ours"), ())
    if all(value.difference is None for value in values):
        return []
    cells = tuple(
        _signed(value.difference, digits)
        for value, digits in zip(values, table.digits, strict=True)
    )
    return [TextLine("", "difference", cells, (False,) * len(cells), "")]


def _to_full(table: ResultTable, row: Row) -> list[TextLine]:
    """The difference to the full method's row, and whether its sign is the published one."""
    if not row.to_full:
        return []
    numbers, verdicts = [], []
    for found, digits in zip(row.to_full, table.digits, strict=True):
        number = _signed(None if found is None else found.difference, digits)
        if found is not None and found.half_width is not None:
            number += f" ± {found.half_width:.{digits}f}"
        numbers.append(number)
        verdicts.append(MISSING if found is None else found.verdict)
    none = (False,) * len(numbers)
    return [
        TextLine("", "minus full", tuple(numbers), none, ""),
        TextLine("", "sign", tuple(verdicts), none, ""),
    ]


def _cell(value: Value, digits: int, *, most: int) -> str:
    """``most``: runs behind a value of ours; one with fewer says how many."""
    if value.mean is None:
        return MISSING
    text = f"{value.mean:.{digits}f}"
    if value.spread is not None:
        text += f" ± {value.spread:.{digits}f}"
    if value.seeds and value.seeds < most:
        text += f" (n={value.seeds})"
    return text.replace("-", "−")


def _signed(difference: float | None, decimals: int) -> str:
    if difference is None:
        return MISSING
    rounded = round(difference, decimals)
    text = f"{rounded:+.{decimals}f}" if rounded else f"±{0:.{decimals}f}"
    return text.replace("-", "−")


def _fields(row: Row, line: Line, value: Value) -> dict[str, object]:
    low, high = value.interval or (None, None)
    return {
        "side": line.side,
        "value": value.mean,
        "spread": value.spread,
        "seeds": value.seeds or None,
        "low": low,
        "high": high,
        "published": value.published,
        "difference": value.difference,
        "best": int(value.best),
        "average_rank": line.rank.average if line.rank else None,
        "oracle": int(line.side == "oracle" or (line.side == "ours" and row.is_oracle)),
    }


def _full_fields(found: ToFull | None) -> dict[str, object]:
    if found is None:
        return {}
    return {
        "to_full": found.difference,
        "to_full_half_width": found.half_width,
        "to_full_published": found.published,
        "sign": found.verdict,
    }


def _heads(table: ResultTable) -> list[str]:
    alone = len(table.columns) == 1
    words = [place.metric if alone else f"{place.column} {place.metric}" for place in table.places]
    return [_markdown(word) for word in words]


def _rank_head(table: ResultTable) -> list[str]:
    return ["rank"] if table.ranked else []


def _bold(
    line: TextLine, escape: Callable[[str], str], strong: Callable[[str], str]
) -> Sequence[str]:
    cells = zip(map(escape, line.cells), line.best, strict=True)
    return [strong(words) if best else words for words, best in cells]


def _html_head(table: ResultTable, index: int) -> str:
    """The names of a column and of its metrics; columns stand below each other."""
    column = table.columns[index]
    heads = "".join(f'<th scope="col">{html.escape(metric)}</th>' for metric in column.metrics)
    rank = '<th scope="col">rank</th>' if table.ranked and index == 0 else ""
    return f'<tr class="head"><th>{html.escape(column.name)}</th><th></th>{heads}{rank}</tr>\n'


def _html_line(table: ResultTable, line: TextLine, span: slice) -> str:
    cells = _bold(line, html.escape, lambda words: f"<b>{words}</b>")[span]
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    rank = f"<td>{html.escape(line.rank)}</td>" if table.ranked and span.start == 0 else ""
    start = ' class="start"' if line.label else ""
    return (
        f'<tr{start}><th scope="row">{html.escape(line.label)}</th>'
        f'<td class="side">{html.escape(line.side)}</td>{numbers}{rank}</tr>\n'
    )


def _markdown(words: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(words.split()))


def _latex(words: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in " ".join(words.split()))


def _latex_row(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"
