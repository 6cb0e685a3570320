# ruff: noqa: F401 - the imports below are for type checkers
"""The public Python interface of img2shape. Everything here is imported at its first use.

Train and score one run, as ``img2shape train`` and ``img2shape eval`` do::

    import img2shape

    config = img2shape.load_config("own/astn", ["data.root=data/mine", "training.steps=200"])
    run = img2shape.train(config, "runs/mine")
    scores = img2shape.evaluate_run(run.path)

Score anybody's embeddings exactly::

    queries = img2shape.Embeddings(keys, labels, vectors)  # vectors: float32 [n, D]
    gallery = img2shape.read_embeddings("gallery.parquet")
    result = img2shape.evaluate(queries, gallery, protocol="mi3dor")
    print(result.headline["mAP"])

Write a method (``img2shape methods`` lists it once the distribution has an entry point in the group
``img2shape.methods``)::

    class Mine(img2shape.TwoDomains):
        \"\"\"Source classification, and embeddings of the same mean length in both domains.\"\"\"

        name, paper, Config = "mine", "unpublished", img2shape.MethodConfig

        def align(self, losses, pair, now):
            photos, shapes = (img2shape.global_mean(f.norm(dim=1)) for f in (pair.f_s, pair.f_t))
            losses.add("length", (photos - shapes).square(), weight=0.1)
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; _PLACES is what runs
    from cluster.evaluation import evaluate_run, search_run
    from dataio.loading import Batch, Loader, StreamSource
    from dataio.records import DataError, Record
    from dataio.shards import Manifest, load_manifest
    from evalsuite import (
        Embeddings,
        Evaluation,
        EvaluationError,
        InstanceEvaluation,
        Interval,
        bootstrap_difference,
        compare,
        evaluate,
        evaluate_arrays,
        evaluate_distances,
        evaluate_instance_arrays,
        evaluate_instances,
        instance_intervals,
        intervals,
        read_embeddings,
        write_embeddings,
    )
    from trainer import losses, synchronised
    from trainer.config import RunConfig, load_config, parse_config
    from trainer.errors import ConfigError
    from trainer.extraction import TrainedRun, load_run
    from trainer.methods import (
        METHODS,
        Domain,
        Losses,
        Method,
        MethodConfig,
        Now,
        Pair,
        StreamNeed,
        TwoDomains,
        Update,
    )
    from trainer.networks import NetworkConfig, RetrievalNetwork
    from trainer.runs import RunFolder
    from trainer.synchronised import (
        RunningCenters,
        all_gather_rows,
        all_reduce_sum,
        class_moments,
        class_sums,
        global_mean,
        process_group,
    )

_PLACES = {
    "cluster.evaluation": ("evaluate_run", "search_run"),
    "dataio.loading": ("Batch", "Loader", "StreamSource"),
    "dataio.records": ("DataError", "Record"),
    "dataio.shards": ("Manifest", "load_manifest"),
    "evalsuite": (
        "Embeddings",
        "Evaluation",
        "EvaluationError",
        "InstanceEvaluation",
        "Interval",
        "bootstrap_difference",
        "compare",
        "evaluate",
        "evaluate_arrays",
        "evaluate_distances",
        "evaluate_instance_arrays",
        "evaluate_instances",
        "instance_intervals",
        "intervals",
        "read_embeddings",
        "write_embeddings",
    ),
    "trainer.config": ("RunConfig", "load_config", "parse_config"),
    "trainer.errors": ("ConfigError",),
    "trainer.extraction": ("TrainedRun", "load_run"),
    "trainer.methods": (
        "METHODS",
        "Domain",
        "Losses",
        "Method",
        "MethodConfig",
        "Now",
        "Pair",
        "StreamNeed",
        "TwoDomains",
        "Update",
    ),
    "trainer.networks": ("NetworkConfig", "RetrievalNetwork"),
    "trainer.runs": ("RunFolder",),
    "trainer.synchronised": (
        "RunningCenters",
        "all_gather_rows",
        "all_reduce_sum",
        "class_moments",
        "class_sums",
        "global_mean",
        "process_group",
    ),
}
_MODULES = {"losses": "trainer.losses", "synchronised": "trainer.synchronised"}
_PLACE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = sorted((*_PLACE_OF, *_MODULES, "train"))  # pyright: ignore[reportUnsupportedDunderAll]


def train(config: RunConfig, out: str | Path, *, workers: int = 0) -> RunFolder:
    """Train a run in the folder ``out`` and return the folder. A run that it holds is continued.

    Args:
        workers: 0 trains in this process; more starts so many Ray Train workers.

    Raises:
        ConfigError, DataError: what is wrong with the description or its data.
    """
    from cluster.training import launch

    return launch(config, Path(out), workers=workers)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name not in _PLACE_OF:
        raise AttributeError(f"module 'img2shape' has no attribute '{name}'")
    return getattr(import_module(_PLACE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
