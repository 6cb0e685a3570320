"""Packed data sets: the manifest, where it lies, its quarantine, reading samples by byte range, the
node's cache of remote shards, and decoding.

May import: dataio.
"""

from dataio.shards import read_bytes
from dataio.shards.decode import (
    VIEWS_TAR,
    Fit,
    Interpolation,
    decode_image,
    decode_views,
    orientation_of,
    resize,
    sniff,
    turned,
    view_number,
)
from dataio.shards.labels import ClassMap, match_classes, renamed
from dataio.shards.location import NotFound, exists, is_remote, join, normal, read_blocks, shown
from dataio.shards.manifest import MANIFEST_NAME, Manifest, Member, Shard, union, write_manifest
from dataio.shards.opening import load_manifest, without_quarantined
from dataio.shards.quarantine import (
    Quarantine,
    QuarantinedSample,
    RepairedShard,
    read_quarantine,
    write_quarantine,
)
from dataio.shards.reading import (
    CONTENT_SUFFIXES,
    HEADER_BYTES,
    ShardReader,
    content_member,
    is_member_header,
    member_content,
    verify_content,
)
from dataio.shards.shard_cache import node_cache

__all__ = [
    "CONTENT_SUFFIXES",
    "HEADER_BYTES",
    "MANIFEST_NAME",
    "VIEWS_TAR",
    "ClassMap",
    "Fit",
    "Interpolation",
    "Manifest",
    "Member",
    "NotFound",
    "Quarantine",
    "QuarantinedSample",
    "RepairedShard",
    "Shard",
    "ShardReader",
    "content_member",
    "decode_image",
    "decode_views",
    "exists",
    "is_member_header",
    "is_remote",
    "join",
    "load_manifest",
    "match_classes",
    "member_content",
    "node_cache",
    "normal",
    "orientation_of",
    "read_blocks",
    "read_bytes",
    "read_quarantine",
    "renamed",
    "resize",
    "shown",
    "sniff",
    "turned",
    "union",
    "verify_content",
    "view_number",
    "without_quarantined",
    "write_manifest",
    "write_quarantine",
]
