"""Entropy minimisation on the target (Grandvalet and Bengio, NIPS 2004).

    L = L_ce(source) + weight · mean_t H(p)

The classifier is asked to be certain on unlabelled shapes. It can be certain and wrong: the
coverage of pseudo-classes in the log falls when all shapes go to a few classes.
"""

from __future__ import annotations

from pydantic import Field

from trainer.losses import entropy
from trainer.methods.base import Losses, MethodConfig, Now
from trainer.methods.two_domains import Pair, TwoDomains


class EntropyMinimisationConfig(MethodConfig):
    """Entropy minimisation."""

    weight: float = Field(
        default=0.1,
        ge=0,
        description="Weight of the target entropy; selected per data set in the paper, 0.1 as in "
        "DAIS-NET.",
    )


class EntropyMinimisation(TwoDomains):
    name = "entropy-minimisation"
    paper = "Grandvalet and Bengio, NIPS 2004"
    Config = EntropyMinimisationConfig

    def align(self, losses: Losses, pair: Pair, now: Now) -> None:
        losses.add("entropy", entropy(pair.logits_t), weight=self.config.weight)
