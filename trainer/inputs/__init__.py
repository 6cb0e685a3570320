"""A run's data: its opened data sets with one label space, the streams that a method trains on, and
copies of batches to a GPU.

May import: dataio, trainer.config, trainer.methods, trainer.sections.
"""

from trainer.inputs.data_sets import (
    bad_samples,
    class_mapping,
    data_fingerprint,
    data_set_name,
    label_space,
    open_data_set,
    require_samples,
    training_selections,
)
from trainer.inputs.device_copies import on_device
from trainer.inputs.streams import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    criterion_source,
    evaluation_source,
    to_domain,
    to_domains,
    training_loader,
    training_sources,
    walk_stream,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "bad_samples",
    "class_mapping",
    "criterion_source",
    "data_fingerprint",
    "data_set_name",
    "evaluation_source",
    "label_space",
    "on_device",
    "open_data_set",
    "require_samples",
    "to_domain",
    "to_domains",
    "training_loader",
    "training_selections",
    "training_sources",
    "walk_stream",
]
