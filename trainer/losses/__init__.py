"""Losses as pure functions of features and statistics, on the global batch.

In one process they work on plain tensors. Inside a process group each rank passes its own rows,
and every rank gets the same global value; :mod:`trainer.synchronised.collectives` has the rule for
gradients.

May import: dataio, trainer.synchronised.
"""

from trainer.losses.adversarial import adversarial, domain_accuracy
from trainer.losses.centers import Reduction, class_center_distance, instance_alignment
from trainer.losses.classification import accuracy, cross_entropy
from trainer.losses.conditional import (
    certainty,
    conditional_adversarial,
    multilinear_map,
    randomized_map,
)
from trainer.losses.coral import coral
from trainer.losses.discrepancy import class_mean_discrepancy, nearest_mean_accuracy
from trainer.losses.entropy import entropy
from trainer.losses.generative import generator_loss
from trainer.losses.metric import batch_hard, contrastive
from trainer.losses.mmd import jmmd, mmd
from trainer.losses.mutual_information import (
    jensen_shannon_mutual_information,
    mutual_information,
    pair_accuracy,
    roll_rows,
)
from trainer.losses.norms import NormPenalty, feature_norm, stepwise_feature_norm
from trainer.losses.transferable import (
    batch_spread_table,
    shift_table,
    spread_table,
    transferable_cross_entropy,
)
from trainer.losses.triplet import Draw, cross_modal_triplet, paired_squared_distance

__all__ = [
    "Draw",
    "NormPenalty",
    "Reduction",
    "accuracy",
    "adversarial",
    "batch_hard",
    "batch_spread_table",
    "certainty",
    "class_center_distance",
    "class_mean_discrepancy",
    "conditional_adversarial",
    "contrastive",
    "coral",
    "cross_entropy",
    "cross_modal_triplet",
    "domain_accuracy",
    "entropy",
    "feature_norm",
    "generator_loss",
    "instance_alignment",
    "jensen_shannon_mutual_information",
    "jmmd",
    "mmd",
    "multilinear_map",
    "mutual_information",
    "nearest_mean_accuracy",
    "pair_accuracy",
    "paired_squared_distance",
    "randomized_map",
    "roll_rows",
    "shift_table",
    "spread_table",
    "stepwise_feature_norm",
    "transferable_cross_entropy",
]
