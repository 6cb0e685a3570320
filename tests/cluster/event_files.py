"""Reading TensorBoard's event files back as TensorBoard shows them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event, SessionLog


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Of each tag the steps and values that are drawn: a later start takes back those from its
    first step on."""
    drawn: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("events.*"), key=lambda p: (p.stat().st_mtime_ns, p.name)):
        for event in events(path):
            if event.session_log.status == SessionLog.START:
                for points in drawn.values():
                    points[:] = [p for p in points if p[0] < event.step]
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    drawn.setdefault(value.tag, []).append((event.step, value.simple_value))
    return drawn


def events(path: Path) -> Iterator[Any]:
    """Records of a file: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event()
        event.ParseFromString(data[at + 12 : at + 12 + length])
        yield event
        at += 16 + length
