"""From a checkpoint to embeddings: every item of a stream exactly once, at any number of ranks.

May import: dataio, trainer.building, trainer.config, trainer.inputs, trainer.methods,
trainer.networks, trainer.runs, trainer.synchronised.
"""

from trainer.extraction.embed_stream import embed_whole
from trainer.extraction.trained_run import (
    TrainedRun,
    extract,
    load_run,
    untrained,
)

__all__ = ["TrainedRun", "embed_whole", "extract", "load_run", "untrained"]
