"""A run's data, opened once: manifests, label space, streams and plan; the training loader, copies
of batches to a GPU, and the kept outputs of frozen stages.

May import: dataio, trainer.config, trainer.methods, trainer.networks, trainer.sections.
"""

from trainer.inputs.device_copies import on_device
from trainer.inputs.feature_store import FeatureStore
from trainer.inputs.open_data import OpenData, training_selections
from trainer.inputs.renderings import differing_renderings
from trainer.inputs.streams import (
    to_domain,
    to_domains,
    training_loader,
    walk_stream,
)

__all__ = [
    "FeatureStore",
    "OpenData",
    "differing_renderings",
    "on_device",
    "to_domain",
    "to_domains",
    "training_loader",
    "training_selections",
    "walk_stream",
]
