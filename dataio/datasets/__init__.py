"""The data sets that can be packed: one file for each public data set, your own folders, and the
built-in benchmark. An adapter lists files and yields records; it never decodes a pixel.

May import: dataio, dataio.datasets.pictures, dataio.datasets.shapes, dataio.meshes.
"""

from dataio.datasets import procedural_shrec
from dataio.datasets.adapter_type import Adapter, AdapterOptions
from dataio.datasets.listing import found
from dataio.datasets.procedural import SIZES, benchmark_name, make_procedural, records
from dataio.datasets.procedural_files import STYLES
from dataio.datasets.registry import adapter, adapter_names, parse_options

__all__ = [
    "SIZES",
    "STYLES",
    "Adapter",
    "AdapterOptions",
    "adapter",
    "adapter_names",
    "benchmark_name",
    "found",
    "make_procedural",
    "parse_options",
    "procedural_shrec",
    "records",
]
