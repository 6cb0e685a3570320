"""How gradients are averaged and weights stepped: DDP and DeepSpeed ZeRO behind one interface,
optimisers, and how trunks are set up.

May import: trainer.config, trainer.methods, trainer.networks, trainer.sections,
trainer.synchronised.
"""

from trainer.engines.hardware import fair_threads, own_device
from trainer.engines.strategy import (
    Strategy,
    evaluating,
    open_strategy,
    refusals,
    require_supported,
)
from trainer.engines.trunk_setup import set_layout, set_passes

__all__ = [
    "Strategy",
    "evaluating",
    "fair_threads",
    "open_strategy",
    "own_device",
    "refusals",
    "require_supported",
    "set_layout",
    "set_passes",
]
