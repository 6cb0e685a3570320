"""What all commands share: options, output, progress, signals.

May import: nothing of this project.
"""

from cluster.terminal.options import Json, Overrides, only_json, shown
from cluster.terminal.progress import Bar, console, say, task
from cluster.terminal.stop_signals import handling_signals, sigterm_interrupts, stop_on_signal

__all__ = [
    "Bar",
    "Json",
    "Overrides",
    "console",
    "handling_signals",
    "only_json",
    "say",
    "shown",
    "sigterm_interrupts",
    "stop_on_signal",
    "task",
]
