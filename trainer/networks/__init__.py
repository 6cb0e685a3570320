"""The parts of a method's network: trunks, views, heads, gates and weights.

May import: trainer.synchronised.
"""

from trainer.networks.compiled import CompilerError, require_compiler
from trainer.networks.complexity import measure
from trainer.networks.dropout import dropout_rows, row_positions
from trainer.networks.heads import Classifier, Discriminator, reverse_gradient
from trainer.networks.local_discriminator import LocalDiscriminator, MapProjections, map_channels
from trainer.networks.metric_network import MetricBranch, Transformation
from trainer.networks.network import Encoding, RetrievalNetwork
from trainer.networks.options import NetworkConfig
from trainer.networks.trunk import Backbone
from trainer.networks.views import pool_views
from trainer.networks.weights import NetworkError

__all__ = [
    "Backbone",
    "Classifier",
    "CompilerError",
    "Discriminator",
    "Encoding",
    "LocalDiscriminator",
    "MapProjections",
    "MetricBranch",
    "NetworkConfig",
    "NetworkError",
    "RetrievalNetwork",
    "Transformation",
    "dropout_rows",
    "map_channels",
    "measure",
    "pool_views",
    "require_compiler",
    "reverse_gradient",
    "row_positions",
]
