"""Where queries and shapes of finished runs came from, by key."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.inputs import OpenData


def sample_origins(runs: Sequence[OpenData]) -> dict[str, str]:
    """The origin of each query and shape of the runs, by key: a path under the packed root.

    Keys of samples whose data set does not say it are left out.
    """
    found: dict[str, str] = {}
    for data in runs:
        for selection in (data.config.data.queries, data.config.data.gallery):
            source = data.evaluation_source(selection, pictures=True)
            keys, origins = source.manifest.keys, source.manifest.origins
            found |= {keys[row]: origins[row] for row in source.rows if origins[row]}
    return found
