"""Self-contained HTML pages: the report, the page of a sweep, the page of a search.

May import: evalsuite, evalsuite.scoring, evalsuite.search, evalsuite.statistics, evalsuite.tables,
evalsuite.vectors.
"""

from evalsuite.pages.report import build_report
from evalsuite.pages.runs import RunView, view_run
from evalsuite.pages.search_page import Answer, Hit, write_search_page
from evalsuite.pages.strips import PicturesByKey, Thumb, choose_queries, data_uri, thumbnail
from evalsuite.pages.sweep_page import write_sweep_page
from evalsuite.pages.sweep_plots import TransferMatrix

__all__ = [
    "Answer",
    "Hit",
    "PicturesByKey",
    "RunView",
    "Thumb",
    "TransferMatrix",
    "build_report",
    "choose_queries",
    "data_uri",
    "thumbnail",
    "view_run",
    "write_search_page",
    "write_sweep_page",
]
