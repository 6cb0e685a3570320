"""The parts of a method's network: trunks, views, heads, gates and weights.

May import: dataio, trainer.synchronised.
"""

from trainer.networks.alexnet import CaffeAlexNet
from trainer.networks.clip_text import ClipTexts
from trainer.networks.compiled import CompilerError, require_compiler
from trainer.networks.complexity import measure
from trainer.networks.dropout import dropout_rows, row_positions
from trainer.networks.heads import Classifier, Discriminator, reverse_gradient
from trainer.networks.library import installed_packages
from trainer.networks.local_discriminator import LocalDiscriminator, MapProjections, map_channels
from trainer.networks.metric_network import MetricBranch, Transformation
from trainer.networks.network import Encoding, RetrievalNetwork, TrunkFeatures, pool_views
from trainer.networks.options import OWN as OWN_TRUNKS
from trainer.networks.options import TWO_TRUNK_KEYS, Modality, NetworkConfig
from trainer.networks.preprocessing import KNOWN as KNOWN_PREPROCESSING
from trainer.networks.preprocessing import PreprocessingOptions
from trainer.networks.preprocessing import header as preprocessing_header
from trainer.networks.preprocessing import parsed as parsed_preprocessing
from trainer.networks.preprocessing import written_into as preprocessing_written_into
from trainer.networks.trunk import Backbone, NetworkError
from trainer.networks.weights import NamedWeights, named_weights, read_state_dict, without_weights

__all__ = [
    "KNOWN_PREPROCESSING",
    "OWN_TRUNKS",
    "TWO_TRUNK_KEYS",
    "Backbone",
    "CaffeAlexNet",
    "Classifier",
    "ClipTexts",
    "CompilerError",
    "Discriminator",
    "Encoding",
    "LocalDiscriminator",
    "MapProjections",
    "MetricBranch",
    "Modality",
    "NamedWeights",
    "NetworkConfig",
    "NetworkError",
    "PreprocessingOptions",
    "RetrievalNetwork",
    "Transformation",
    "TrunkFeatures",
    "dropout_rows",
    "installed_packages",
    "map_channels",
    "measure",
    "named_weights",
    "parsed_preprocessing",
    "pool_views",
    "preprocessing_header",
    "preprocessing_written_into",
    "read_state_dict",
    "require_compiler",
    "reverse_gradient",
    "row_positions",
    "without_weights",
]
