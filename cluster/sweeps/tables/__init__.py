"""The papers' tables and transfer matrices: sweeps whose results stand beside published figures.

May import: dataio, trainer, evalsuite, cluster, cluster.data_jobs, cluster.sweeps.
"""

from cluster.sweeps.tables.paper_tables import (
    load_table,
    load_tables,
    names_of,
    part_names,
    part_path,
    published_row,
    read_part,
    table_names,
)
from cluster.sweeps.tables.part_runs import Filling, LedgerRow, run_parts
from cluster.sweeps.tables.printing import (
    exporters,
    print_matrices,
    print_part_names,
    print_result_table,
)
from cluster.sweeps.tables.table_description import (
    DATA_CHOICES,
    DataChoice,
    PaperPart,
    TableRow,
)
from cluster.sweeps.tables.table_points import CONFIGS, table_skips
from cluster.sweeps.tables.table_results import run_tables
from cluster.sweeps.tables.transfer_matrix import matrix_sweep, transfer_matrices

__all__ = [
    "CONFIGS",
    "DATA_CHOICES",
    "DataChoice",
    "Filling",
    "LedgerRow",
    "PaperPart",
    "TableRow",
    "exporters",
    "load_table",
    "load_tables",
    "matrix_sweep",
    "names_of",
    "part_names",
    "part_path",
    "print_matrices",
    "print_part_names",
    "print_result_table",
    "published_row",
    "read_part",
    "run_parts",
    "run_tables",
    "table_names",
    "table_skips",
    "transfer_matrices",
]
