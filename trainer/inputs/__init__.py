"""A run's data: its opened data sets with one label space, the streams that a method trains on, and
copies of batches to a GPU.

May import: dataio, trainer.config, trainer.methods, trainer.sections.
"""

from trainer.inputs.device_copies import on_device
from trainer.inputs.open_data import OpenData, training_selections
from trainer.inputs.streams import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    to_domain,
    to_domains,
    training_loader,
    walk_stream,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "OpenData",
    "on_device",
    "to_domain",
    "to_domains",
    "training_loader",
    "training_selections",
    "walk_stream",
]
