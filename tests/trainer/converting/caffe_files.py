"""Caffe's files written byte by byte, without Protocol Buffers' library.

A message is a row of fields; a field is its key (number * 8 + wire type) and its value: a varint
(type 0), eight bytes (1), a length and that many bytes (2), or four bytes (5).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit says that more follow."""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def text(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(
    values: np.ndarray, *, old: bool = False, packed: bool = True, double: bool = False
) -> bytes:
    """A BlobProto; ``old``: four axes num, channels, height, width instead of a shape."""
    kind, field = ("<f8", 8) if double else ("<f4", 5)
    if packed:
        data = text(field, values.astype(kind).tobytes())
    else:
        key = varint(field << 3 | (1 if double else 5))
        data = b"".join(key + struct.pack("<d" if double else "<f", v) for v in values.ravel())
    if old:
        axes = [*[1] * (4 - values.ndim), *values.shape]
        return b"".join(number(i + 1, n) for i, n in enumerate(axes)) + data
    return data + text(7, text(1, b"".join(map(varint, values.shape))))


def layer(name: str, blobs: Sequence[bytes] = (), *, v1: bool = False) -> bytes:
    """A field of a NetParameter: ``layer``, or ``layers`` of the V1 format."""
    if v1:
        body = number(5, 4) + text(4, name.encode()) + b"".join(text(6, b) for b in blobs)
        return text(2, body)
    kind = text(2, b"Convolution")
    return text(100, text(1, name.encode()) + kind + b"".join(text(7, b) for b in blobs))


def network(layers: Sequence[bytes]) -> bytes:
    """A NetParameter."""
    return text(1, b"CaffeNet") + b"".join(layers)
