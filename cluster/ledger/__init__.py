"""The ledger of a store of sweeps: which cells were trained, with which results, in which folders.

May import: dataio, trainer, evalsuite, cluster.terminal.
"""

from cluster.ledger.cell_folders import cell_lock
from cluster.ledger.cleaning import Cleaned, clean
from cluster.ledger.export import export_rows, flat
from cluster.ledger.rows import STATUSES, Row
from cluster.ledger.store import Ledger, Merged, ledger_at, ledger_of

__all__ = [
    "STATUSES",
    "Cleaned",
    "Ledger",
    "Merged",
    "Row",
    "cell_lock",
    "clean",
    "export_rows",
    "flat",
    "ledger_at",
    "ledger_of",
]
