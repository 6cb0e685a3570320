"""From a position in the data (seed, step) to this rank's batch: the plan, class balance,
augmentation, loader processes and caches.

May import: dataio, dataio.shards.
"""

from dataio.loading import plan
from dataio.loading.augment import AugmentConfig, apply, draw
from dataio.loading.batch import Batch, Stream
from dataio.loading.class_balance import Balance
from dataio.loading.features import StoredFeatures
from dataio.loading.loader import Loader, LoaderOptions, walk
from dataio.loading.loading_plan import LoadingPlan
from dataio.loading.plan import random_words, stream_number
from dataio.loading.preprocessing import Preprocessing
from dataio.loading.sources import SampleTable, StreamSource

__all__ = [
    "AugmentConfig",
    "Balance",
    "Batch",
    "Loader",
    "LoaderOptions",
    "LoadingPlan",
    "Preprocessing",
    "SampleTable",
    "StoredFeatures",
    "Stream",
    "StreamSource",
    "apply",
    "draw",
    "plan",
    "random_words",
    "stream_number",
    "walk",
]
