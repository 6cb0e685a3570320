"""Two AlexNets (Krizhevsky et al., NeurIPS 2012): the Caffe layout and torchvision's.

The Caffe layout (grouped convolutions, local response normalisation, 227×227 inputs) is the one
of the MI3DOR papers; torchvision's is the one whose ImageNet weights can be downloaded.
"""

from __future__ import annotations

from torch import nn

from trainer.networks.dropout import GlobalDropout
from trainer.networks.torchvision_shim import import_torchvision
from trainer.networks.trunk import Backbone, NetworkError

# Input channels, output channels, kernel, stride, padding, groups.
_CONVOLUTIONS = (
    (3, 96, 11, 4, 0, 1),
    (96, 256, 5, 1, 2, 2),
    (256, 384, 3, 1, 1, 1),
    (384, 384, 3, 1, 1, 2),
    (384, 256, 3, 1, 1, 2),
)
# Places of these layers in the Sequential modules of public PyTorch ports of the Caffe weights.
_PORTED = {
    **{f"features.{place}": f"conv{i}" for i, place in enumerate((0, 4, 8, 10, 12), start=1)},
    **{"classifier.0": "fc6", "classifier.1": "fc6", "classifier.3": "fc7", "classifier.4": "fc7"},
}


class CaffeAlexNet(Backbone):
    """AlexNet as in Caffe's reference model, up to fc7 (F = 4096); layer names are Caffe's.

    A stage ends after its pooling; the normalisation after pool1 and pool2 belongs to the next
    stage. A positive factor passes through ReLU and max pooling, but not through normalisation. So
    a gate after a stage scales exactly the output of the stage's convolution.

    Args:
        image_size: side of the input; the last map has to be 6×6 (227 as trained, also 224).
        dropout: probability after fc6 and fc7.
    """

    heads = ("fc8.", "classifier.6.")

    def __init__(self, *, image_size: int, dropout: float) -> None:
        super().__init__()
        if _map_side(image_size) != 6:
            raise NetworkError(
                f"network.image_size={image_size} ends in a {_map_side(image_size)}x"
                f"{_map_side(image_size)} map where alexnet's fc6 needs 6x6; use 227"
            )
        for i, (before, after, kernel, *rest) in enumerate(_CONVOLUTIONS, start=1):
            stride, padding, groups = rest
            conv = nn.Conv2d(before, after, kernel, stride, padding, groups=groups)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"relu{i}", nn.ReLU(inplace=True))
        for i in (1, 2, 5):
            self.add_module(f"pool{i}", nn.MaxPool2d(3, 2, ceil_mode=True))
        for i in (1, 2):
            self.add_module(f"norm{i}", nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0))
        self.flatten = nn.Flatten()
        for i, before in ((6, 256 * 6 * 6), (7, 4096)):
            self.add_module(f"fc{i}", nn.Linear(before, 4096))
            self.add_module(f"relu{i}", nn.ReLU(inplace=True))
            self.add_module(f"drop{i}", GlobalDropout(dropout, layer=i))
        self.plan = {
            "conv1": ("conv1", "relu1", "pool1"),
            "conv2": ("norm1", "conv2", "relu2", "pool2"),
            "conv3": ("norm2", "conv3", "relu3"),
            "conv4": ("conv4", "relu4"),
            "conv5": ("conv5", "relu5", "pool5"),
        }
        self.tail = ("flatten", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7")
        self.width = 4096

    def rename(self, name: str) -> str:
        layer, _, kind = name.rpartition(".")
        return f"{_PORTED.get(layer, layer)}.{kind}"


def _map_side(image_size: int) -> int:
    """Side of the last map: conv1 (11, stride 4), then three 3×3 poolings with stride 2."""
    side = (image_size - 11) // 4 + 1
    for _ in range(3):
        side = -(-(side - 3) // 2) + 1
    return side


class TorchvisionAlexNet(Backbone):
    """torchvision's AlexNet up to its second hidden layer (F = 4096), with our dropout.

    Args:
        image_size: side of the input, at least 63.
        dropout: probability before each of the two hidden layers.
    """

    heads = ("classifier.6.",)

    def __init__(self, *, image_size: int, dropout: float) -> None:
        super().__init__()
        if image_size < 63:
            raise NetworkError(
                f"network.image_size={image_size} leaves nothing for alexnet-tv's last pooling; "
                "use 224, or at least 63"
            )
        net = import_torchvision().models.alexnet(weights=None)
        self.convolutions = net.features
        self.avgpool, self.flatten = net.avgpool, nn.Flatten()
        self.classifier = net.classifier[:6]
        self.classifier[0] = GlobalDropout(dropout, layer=6)
        self.classifier[3] = GlobalDropout(dropout, layer=7)
        spans = {"conv1": (0, 3), "conv2": (3, 6), "conv3": (6, 8), "conv4": (8, 10)}
        self.plan = {
            stage: tuple(f"convolutions.{i}" for i in range(*span))
            for stage, span in (spans | {"conv5": (10, 13)}).items()
        }
        self.tail = ("avgpool", "flatten", *(f"classifier.{i}" for i in range(6)))
        self.width = 4096

    def rename(self, name: str) -> str:
        # torchvision calls this module `features`, which is a method of every trunk.
        return name.replace("features.", "convolutions.", 1)
