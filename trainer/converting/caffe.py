"""Caffe's files: networks with their weights (.caffemodel) and mean pictures (.binaryproto).

Both are messages of Protocol Buffers. Declared here are the few fields that hold layers and
numbers, under the numbers of Caffe's ``caffe.proto``; the parser skips the others. No code in a
file is run.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
from torch import Tensor

from trainer.networks import NetworkError

# Messages by name; their fields by name: number, type ("*" behind it: repeated).
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "BlobShape": {"dim": (1, "int64*")},
    "BlobProto": {
        "num": (1, "int64"),
        "channels": (2, "int64"),
        "height": (3, "int64"),
        "width": (4, "int64"),
        "data": (5, "float*"),
        "shape": (7, "BlobShape"),
        "double_data": (8, "double*"),
    },
    "LayerParameter": {"name": (1, "bytes"), "blobs": (7, "BlobProto*")},
    "V0LayerParameter": {},
    "V1LayerParameter": {
        "layer": (1, "V0LayerParameter"),
        "name": (4, "bytes"),
        "blobs": (6, "BlobProto*"),
    },
    "NetParameter": {"layers": (2, "V1LayerParameter*"), "layer": (100, "LayerParameter*")},
}
_PACKAGE = "img2shape.caffe"


def read_caffemodel(path: Path) -> dict[str, tuple[Tensor, ...]]:
    """The float32 blobs of each layer by its name, layers in the order of the network.

    Layers without weights (poolings, normalisations) have no blobs, and are there. A blob has the
    shape that the file gives it: the old format has four axes, the first ones of length 1.

    Raises:
        NetworkError: no such message, one older than Caffe's V1 format, or blobs that are damaged.
    """
    net = _parsed("NetParameter", path, kind=".caffemodel")
    if any(layer.HasField("layer") for layer in net.layers):
        raise NetworkError(
            f"{path}: the format of Caffe before 2014; bring it into a later one with Caffe's "
            "upgrade_net_proto_binary"
        )
    found: dict[str, tuple[Tensor, ...]] = {}
    for layer in (*net.layers, *net.layer):
        name = layer.name.decode(errors="replace")
        blobs = tuple(_tensor(b, where=f"{path}: layer {name}") for b in layer.blobs)
        if blobs and found.get(name):
            raise NetworkError(f"{path}: two layers {name} with weights")
        found[name] = found.get(name) or blobs
    if not any(found.values()):
        raise NetworkError(
            f"{path}: a network without weights; expected Caffe's .caffemodel (a .prototxt only "
            "describes one)"
        )
    return found


def read_mean(path: Path) -> tuple[float, float, float]:
    """The mean colour B, G, R in [0, 255] of a mean picture: its average over all positions.

    Args:
        path: a ``.binaryproto`` of Caffe, or a ``.npy`` of shape [3], [3, H, W] or [1, 3, H, W].

    Raises:
        NetworkError: the file is missing, damaged or of another shape.
    """
    if not path.is_file():
        raise NetworkError(f"{path}: no such file")
    if path.suffix == ".npy":
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as err:
            raise NetworkError(f"{path}: no array of numbers ({err})") from None
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
            raise NetworkError(f"{path}: no array of numbers")
    else:
        values = _tensor(_parsed("BlobProto", path, kind=".binaryproto"), where=str(path)).numpy()
    picture = values[0] if values.ndim == 4 and len(values) == 1 else values
    if picture.ndim not in (1, 3) or len(picture) != 3 or not picture.size:
        raise NetworkError(
            f"{path}: shape {list(values.shape)}; expected three colours: [3], [3, H, W] or "
            "[1, 3, H, W]"
        )
    blue, green, red = picture.reshape(3, -1).mean(axis=1, dtype=np.float64)
    return float(blue), float(green), float(red)


def _parsed(name: str, path: Path, *, kind: str) -> Any:
    try:
        return _message(name).FromString(path.read_bytes())
    except message.DecodeError:
        raise NetworkError(
            f"{path}: not Caffe's {kind}; is the download complete, and not a web page?"
        ) from None


def _tensor(blob: Any, *, where: str) -> Tensor:
    """The numbers of a blob as float32."""
    values = blob.data or blob.double_data
    old = (blob.num, blob.channels, blob.height, blob.width)
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else old
    if any(length < 0 for length in shape) or math.prod(shape) != len(values):
        raise NetworkError(f"{where}: {len(values)} numbers for a blob of shape {list(shape)}")
    numbers = np.fromiter(values, dtype=np.float32, count=len(values))
    return torch.from_numpy(numbers).reshape(shape)


@cache
def _message(name: str) -> Any:
    """The class of a message of :data:`_MESSAGES`."""
    field_type = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="img2shape_caffe.proto", package=_PACKAGE, syntax="proto2"
    )
    for title, fields in _MESSAGES.items():
        declared = file.message_type.add(name=title)
        for field, (number, kind) in fields.items():
            plain = kind.removesuffix("*")
            repeated = field_type.LABEL_REPEATED if plain != kind else field_type.LABEL_OPTIONAL
            added = declared.field.add(name=field, number=number, label=repeated)
            if plain in _MESSAGES:
                added.type, added.type_name = field_type.TYPE_MESSAGE, f".{_PACKAGE}.{plain}"
            else:
                added.type = field_type.Type.Value(f"TYPE_{plain.upper()}")
    pool = descriptor_pool.DescriptorPool()  # its own: the default one is shared by the process
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
