"""What every command shares on a terminal: options, progress, signals.

May import: nothing of this project.
"""

from cluster.terminal.options import Json, Overrides, only_json, shown
from cluster.terminal.progress import Bar, console, say, task
from cluster.terminal.stop_signals import sigterm_interrupts, stop_on_signal

__all__ = [
    "Bar",
    "Json",
    "Overrides",
    "console",
    "only_json",
    "say",
    "shown",
    "sigterm_interrupts",
    "stop_on_signal",
    "task",
]
