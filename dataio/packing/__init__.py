"""From records to WebDataset shards with a manifest, in a way that survives a kill; and manifests
for tars that other programs wrote.

May import: dataio, dataio.datasets, dataio.shards.
"""

from dataio.packing.encoding import Views, encode
from dataio.packing.foreign import index
from dataio.packing.records_to_shards import SKIPPED_NAME, pack

__all__ = ["SKIPPED_NAME", "Views", "encode", "index", "pack"]
