"""One file for each paper's method. The training loop knows none of them by name.

May import: dataio, trainer.losses, trainer.networks, trainer.schedules, trainer.shallow,
trainer.synchronised.
"""

from trainer.methods.base import Domain, Losses, Method, MethodConfig, Now, StreamNeed, Update, Walk
from trainer.methods.registry import METHODS
from trainer.methods.two_domains import Pair, TwoDomains

__all__ = [
    "METHODS",
    "Domain",
    "Losses",
    "Method",
    "MethodConfig",
    "Now",
    "Pair",
    "StreamNeed",
    "TwoDomains",
    "Update",
    "Walk",
]
