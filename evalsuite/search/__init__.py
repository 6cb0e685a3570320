"""Nearest shapes: exact top-k, FAISS indexes, and what an approximate index costs.

May import: evalsuite, evalsuite.scoring, evalsuite.vectors.
"""

from evalsuite.search.approximate import approximation_report
from evalsuite.search.exact import (
    Neighbours,
    SearchIndex,
    nearest_rows,
    searched_space,
    selected,
)
from evalsuite.search.index_files import DESCRIPTION, read_index, write_index
from evalsuite.search.index_parameters import KINDS, choose_parameters
from evalsuite.search.indexes import build_index

__all__ = [
    "DESCRIPTION",
    "KINDS",
    "Neighbours",
    "SearchIndex",
    "approximation_report",
    "build_index",
    "choose_parameters",
    "nearest_rows",
    "read_index",
    "searched_space",
    "selected",
    "write_index",
]
