"""The tables of docs/monitoring.md: every metric, panel and alert, as the code has them.

``python -m cluster.monitoring.reference docs/monitoring.md`` renews the page.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from cluster.monitoring.alerts import ALERTS
from cluster.monitoring.dashboard_json import BOARDS
from cluster.monitoring.exported_metrics import METRICS
from trainer.runs import write_text


def tables() -> dict[str, str]:
    """Markdown by the name of its place in the page."""
    panels = {f"panels-{board.name}": board for board in BOARDS}
    return {
        "metrics": _table(
            ("metric", "kind", "labels", "what it says"),
            ((f"`{m.name}`", m.kind, ", ".join(m.label_names), m.help) for m in METRICS),
        ),
        **{
            place: _table(
                ("row", "panel", "what it shows"),
                ((row.title, p.title, p.description) for row in board.rows for p in row.panels),
            )
            for place, board in panels.items()
        },
        "alerts": _table(
            ("alert", "severity", "fires when", "for", "what to do"),
            (
                (a.name, a.severity, f"{_plain(a.summary)}: {a.condition}", a.holds_for, a.runbook)
                for a in ALERTS
            ),
        ),
    }


def renewed(page: str) -> str:
    """``page`` with every table between ``<!-- NAME -->`` and ``<!-- end -->`` made again.

    Raises:
        ValueError: the page has no place for one of the tables.
    """
    for name, table in tables().items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        if not place.search(page):
            raise ValueError(f"no place <!-- {name} --> ... <!-- end --> in the page")
        page = place.sub(lambda found, table=table: found[1] + table + found[2], page, count=1)
    return page


def _plain(template: str) -> str:
    """A template's text for any run: ``{{ $labels.run }}`` is written ``RUN``."""
    return re.sub(r"{{ \$labels\.(\w+) }}", lambda found: found[1].upper(), template)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(c) for c in line)} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    path = Path(sys.argv[1])
    write_text(path, renewed(path.read_text()))
