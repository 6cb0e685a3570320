"""The parts of a method's network: trunks, views, heads, gates and weights.

May import: dataio, trainer.synchronised.
"""

from trainer.networks.clip_text import ClipTexts
from trainer.networks.compiled import CompilerError, require_compiler
from trainer.networks.complexity import measure
from trainer.networks.dropout import dropout_rows, row_positions
from trainer.networks.heads import Classifier, Discriminator, reverse_gradient
from trainer.networks.local_discriminator import LocalDiscriminator, MapProjections, map_channels
from trainer.networks.metric_network import MetricBranch, Transformation
from trainer.networks.network import Encoding, RetrievalNetwork, TrunkFeatures, pool_views
from trainer.networks.options import NetworkConfig
from trainer.networks.preprocessing import PreprocessingOptions
from trainer.networks.preprocessing import parsed as parsed_preprocessing
from trainer.networks.trunk import Backbone, NetworkError
from trainer.networks.weights import without_weights

__all__ = [
    "Backbone",
    "Classifier",
    "ClipTexts",
    "CompilerError",
    "Discriminator",
    "Encoding",
    "LocalDiscriminator",
    "MapProjections",
    "MetricBranch",
    "NetworkConfig",
    "NetworkError",
    "PreprocessingOptions",
    "RetrievalNetwork",
    "Transformation",
    "TrunkFeatures",
    "dropout_rows",
    "map_channels",
    "measure",
    "parsed_preprocessing",
    "pool_views",
    "require_compiler",
    "reverse_gradient",
    "row_positions",
    "without_weights",
]
