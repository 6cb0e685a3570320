"""The run folder: attempts, checkpoints and their retention, records of the log, warm starts.

May import: dataio, trainer.choosing, trainer.config, trainer.methods, trainer.networks,
trainer.synchronised, evalsuite.
"""

from trainer.runs.attempt import Start, SupersededError, read_starts
from trainer.runs.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, open_selected
from trainer.runs.checkpoint_facts import UnusableError, read_facts
from trainer.runs.checkpoint_writer import CheckpointWriter, Written, take_over
from trainer.runs.records import StepLog, drop_records, finite_json, naming, write_json, write_text
from trainer.runs.retention import Retention, Scored, best_first, comparable_scores
from trainer.runs.run_folder import RunFolder, differences, require_same_run
from trainer.runs.warm_start import start_from

__all__ = [
    "Checkpoint",
    "CheckpointWriter",
    "Retention",
    "RunFolder",
    "Scored",
    "Start",
    "StepLog",
    "SupersededError",
    "UnusableError",
    "Written",
    "best_first",
    "comparable_scores",
    "differences",
    "drop_records",
    "finite_json",
    "load_checkpoint",
    "naming",
    "newest_checkpoint",
    "open_selected",
    "read_facts",
    "read_starts",
    "require_same_run",
    "start_from",
    "take_over",
    "write_json",
    "write_text",
]
