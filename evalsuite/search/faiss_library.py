"""FAISS where it is installed, and its indexes on a GPU where its build has one.

FAISS is optional: scoring and importing this file do not need it.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from evalsuite.vectors import EvaluationError

logger = logging.getLogger(__name__)

MOST_ON_GPU = 2048  # answers per query, and lists probed, that GPU indexes take


def faiss_module() -> Any:
    """The module ``faiss``; ``EvaluationError`` with the remedy if it is not installed."""
    try:
        import faiss
    except ImportError:
        raise EvaluationError(
            "searching needs FAISS; pip install faiss-cpu, or faiss-gpu on a machine with a GPU"
        ) from None
    return faiss


class Searcher:
    """One FAISS index, asked on the first GPU if FAISS sees one and has this kind there."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self._gpu = _gpu_copy(index)

    def propose(
        self, vectors_QD: np.ndarray, count: int, **effort: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """FAISS's own numbers float32 [Q, count] and rows int64 [Q, count], -1 where it has none.

        ``effort`` is nprobe or efSearch, for an index that takes it.
        """
        faiss = faiss_module()
        params = None
        if "nprobe" in effort:
            params = faiss.SearchParametersIVF(**effort)
        elif "efSearch" in effort:
            params = faiss.SearchParametersHNSW(**effort)
        if self._gpu is not None and max(count, *effort.values(), 0) <= MOST_ON_GPU:
            try:
                return self._gpu.search(vectors_QD, count, params=params)
            except RuntimeError as error:  # for example out of memory; a CPU answers the same
                self._gpu = None
                logger.warning("searching on the CPU: %s", str(error).splitlines()[0])
        return self.index.search(vectors_QD, count, params=params)


def _gpu_copy(index: Any) -> Any:
    """A copy on GPU 0; None without a GPU, or for a kind that FAISS has on the CPU alone."""
    faiss = faiss_module()
    if faiss.get_num_gpus() == 0 or isinstance(index, faiss.IndexHNSW):
        return None
    try:
        return faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    except RuntimeError as error:
        logger.warning("searching on the CPU: %s", str(error).splitlines()[0])
        return None
