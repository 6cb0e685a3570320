"""Criteria that choose among checkpoints without a label of the target: pure functions on logits.

Each takes the class logits of all samples of a stream, computes in float64 without gradient and
returns one number, NaN where it is not defined. None of them measures retrieval. A criterion may
prefer a collapsed classifier, as entropy does, so the oracle's choice is shown beside it.

Axis letters: N samples, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

CRITERIA = ("entropy", "im", "snd", "source-val")
"""What configurations and results call them."""

LOWER_IS_BETTER = frozenset({"entropy"})

_BLOCK_ELEMENTS = 1 << 22  # similarities held at once, 32 MiB


@torch.no_grad()
def mean_entropy(logits: Tensor) -> float:
    """Mean over the samples of the entropy of their class probabilities, in nats, in [0, log K];
    lower is better.

    Source: Morerio, Cavazza and Murino, Minimal-entropy correlation alignment for unsupervised deep
    domain adaptation, ICLR 2018.

    Args:
        logits: ``[N, K]``; NaN for N = 0.
    """
    return _entropies(logits.double()).mean().item()


@torch.no_grad()
def information_maximisation(logits: Tensor) -> float:
    """H(mean p) - mean H(p), large for certain predictions that are spread over the classes.

    In nats, in [0, log K]; higher is better.

    Source: Gomes, Krause and Perona, Discriminative clustering by regularized information
    maximization, NIPS 2010; in the form of Shi and Sha, ICML 2012.

    Args:
        logits: ``[N, K]``; NaN for N = 0.
    """
    if len(logits) == 0:
        return math.nan
    logits = logits.double()
    # In the log domain a class without any prediction counts 0 and not NaN.
    mean = torch.logsumexp(logits.log_softmax(1), 0) - math.log(len(logits))
    return (_entropies(mean[None]).sum() - _entropies(logits).mean()).item()


@torch.no_grad()
def soft_neighbourhood_density(logits: Tensor, temperature: float = 0.05) -> float:
    """How densely predictions lie: the mean entropy of the softmax over a sample's cosine
    similarities to all other samples.

    In nats, in [0, log(N - 1)]; higher is better.

    Source: Saito, Kim, Teterwak, Sclaroff, Darrell and Saenko, Tune it the right way: unsupervised
    validation of domain adaptation via soft neighborhood density, ICCV 2021. A sample is its class
    probabilities scaled to length 1. A sample is no neighbour of itself, as in the paper's
    equations; the authors' code gives it a similarity of -1 instead of leaving it out.

    The similarities are computed some rows at a time: memory does not grow with N².

    Args:
        logits: ``[N, K]``; NaN for N < 2.
        temperature: τ of the softmax, above 0.
    """
    p = normalize(logits.double().softmax(1), dim=1)
    count = len(p)
    if count < 2:
        return math.nan
    total, rows = 0.0, max(1, _BLOCK_ELEMENTS // count)
    for start in range(0, count, rows):
        block = p[start : start + rows] @ p.T / temperature
        own = torch.arange(len(block), device=p.device)
        block[own, start + own] = -math.inf
        total += _entropies(block).sum().item()
    return total / count


@torch.no_grad()
def source_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of held-out source samples whose largest logit is their class's, in [0, 1]; higher is
    better. It says nothing about the target.

    Args:
        logits: ``[N, K]``; NaN for N = 0.
        labels: int64 ``[N]``.
    """
    if not torch.isfinite(logits).all():
        return math.nan  # argmax would choose a NaN
    return (logits.argmax(1) == labels).double().mean().item()


UNSUPERVISED = {
    "entropy": mean_entropy,
    "im": information_maximisation,
    "snd": soft_neighbourhood_density,
}
"""The criteria that read no label at all, by name."""


def _entropies(logits: Tensor) -> Tensor:
    """Entropy ``[n]`` of the softmax of each row ``[n, k]``; a logit of -inf adds 0."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(1)
