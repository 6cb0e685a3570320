"""How far apart two domains lie: a picture (t-SNE) and a number (proxy A-distance)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_PCA_DIMENSIONS = 50


def even_sample(labels: Sequence[str], count: int, *, seed: int = 0) -> np.ndarray:
    """Rows of at most `count` items, spread over the classes as evenly as the class sizes allow.

    Classes are visited in turn, one random unused item each, until `count` is reached. A class
    without unused items is skipped. Returns int64 [n] in ascending order, n = min(count,
    len(labels)); the same arguments give the same rows.
    """
    names, class_of = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    random = np.random.default_rng(seed)
    turn = np.empty(len(class_of), dtype=np.int64)
    for index in range(len(names)):
        members = np.flatnonzero(class_of == index)
        turn[random.permutation(members)] = np.arange(len(members))
    first_served = random.permutation(len(names))
    return np.sort(np.lexsort((first_served[class_of], turn))[:count]).astype(np.int64)


def tsne(vectors: np.ndarray, *, perplexity: float = 30.0) -> np.ndarray:
    """Two-dimensional t-SNE coordinates of vectors [N, D], as float32 [N, 2].

    van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008: PCA to 50 dimensions,
    Barnes-Hut, initialised by PCA and run on one thread, so that the same vectors give the same
    picture. `perplexity` shrinks to (N - 1) / 3 for few items. Fewer than four items, or items that
    do not differ, come back as zeros.
    """
    from sklearn.decomposition import PCA  # here, since importing it takes seconds
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    items = np.asarray(vectors, dtype=np.float64)
    count = len(items)
    if count < 4 or np.allclose(items, items[:1]):
        return np.zeros((count, 2), dtype=np.float32)
    with threadpool_limits(limits=1):
        dimensions = min(_PCA_DIMENSIONS, count, items.shape[1])
        reduced = PCA(dimensions, svd_solver="full").fit_transform(items)
        if dimensions == 1:  # PCA initialisation needs two columns
            reduced = np.hstack([reduced, np.zeros_like(reduced)])
        model = TSNE(
            init="pca",
            perplexity=min(perplexity, (count - 1) / 3),
            random_state=0,
        )
        return model.fit_transform(reduced).astype(np.float32)


def proxy_a_distance(
    first: np.ndarray, second: np.ndarray, *, seed: int = 0, samples: int = 1000, splits: int = 5
) -> float:
    """Proxy A-distance 2 (1 - 2 e) between two sets of vectors [N, D] and [M, D].

    Ben-David et al., "Analysis of Representations for Domain Adaptation", NeurIPS 2006. e is the
    error of a linear SVM that tells the sets apart, measured on items it was not trained on and
    averaged over `splits` random halvings; at most `samples` items a set are used, as many of one
    as of the other. 0 means that the sets cannot be told apart, 2 that they are separated without
    error. An error above one half counts as one half. ValueError if a set has fewer than 4 items or
    the widths differ.
    """
    from threadpoolctl import threadpool_limits

    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(f"vectors must be [N, D] and [M, D], got {first.shape}, {second.shape}")
    count = min(len(first), len(second), samples)
    if count < 4:
        raise ValueError(f"the proxy A-distance needs 4 items a domain, the smaller has {count}")
    random = np.random.default_rng(seed)
    with threadpool_limits(limits=1):
        errors = [_held_out_error(first, second, count, random) for _ in range(splits)]
    return float(2 * (1 - 2 * min(np.mean(errors), 0.5)))


def _held_out_error(
    first: np.ndarray, second: np.ndarray, count: int, random: np.random.Generator
) -> float:
    """Error on the second halves of a linear SVM trained on the first halves."""
    from sklearn.svm import LinearSVC

    drawn = [random.permutation(len(domain))[:count] for domain in (first, second)]
    half = count // 2
    train = np.concatenate([first[drawn[0][:half]], second[drawn[1][:half]]])
    test = np.concatenate([first[drawn[0][half:]], second[drawn[1][half:]]])
    # One common scale keeps the geometry; scaling each dimension would blow up the quiet ones.
    centre = train.mean(axis=0)
    scale = np.sqrt(np.mean(np.sum((train - centre) ** 2, axis=1))) or 1.0
    model = LinearSVC(C=1.0, random_state=int(random.integers(2**31)), max_iter=10_000)
    model.fit((train - centre) / scale, np.repeat([0, 1], half))
    truth = np.repeat([0, 1], count - half)
    return float(np.mean(model.predict((test - centre) / scale) != truth))
