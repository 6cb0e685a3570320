"""Weights in other programs' files, brought into files that ``network.weights`` can name.

May import: dataio, trainer.networks.
"""

from trainer.converting.alexnet_weights import BACKBONES, Conversion, convert_alexnet
from trainer.converting.caffe import read_mean

__all__ = ["BACKBONES", "Conversion", "convert_alexnet", "read_mean"]
