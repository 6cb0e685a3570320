"""What is compared on the built-in benchmark: the settings, and every paper's ablation rows.

An ablation row is a label and the overrides that make it from the method's ready configuration.
"""

from __future__ import annotations

PHOTOS = [
    "source-only", "coral", "gfk", "jgsa", "meda", "dann", "dan", "jan", "deep-coral",
    "entropy-minimisation", "afn", "cdan", "mstn", "dlea", "hda", "hifa", "ftspl", "astn",
]  # fmt: skip

SETTINGS = {
    "photos against shapes": PHOTOS,
    "sketches against shapes": ["siamese", "dcml", "dca"],
    "sketches and shapes against photos and shapes of another style": ["daisnet"],
}

FROZEN_TRUNK = [
    "network.backbone=timm/tf_efficientnet_lite0",
    "network.weights=package:efficientnet-lite0",
    "network.train=head",
    "network.image_size=96",
    "data.train_views=null",
]

_NO_ENTROPY = "method.entropy_weight=0"

ABLATIONS: dict[str, dict[str, list[str]]] = {
    "astn": {  # tables 3, 6 and 7
        "astn: AFE only": ["method.dsa=false"],
        "astn: DSA only": ["method.afe=false"],
        "astn: instances": ["method.align=instance"],
    },
    "hifa": {  # table 3
        "hifa: global": ["method.mutual_information_weight=0", "method.local_weight=0"],
        "hifa: global+local": ["method.mutual_information_weight=0"],
    },
    # Tables IV and V; the first two rows select samples, table III's own (spl=false) do not.
    "ftspl": {
        "ftspl: classifier labels": ["method.pseudo=classifier"],
        "ftspl: centroid labels": ["method.pseudo=centroid"],
        "ftspl: IDCA": ["method.spl=false", "method.covariance=false", "method.target_ce=0"],
        "ftspl: ICAV": ["method.spl=false", "method.shift=false", "method.target_ce=0"],
        "ftspl: IDCA+ICAV": ["method.spl=false", "method.target_ce=0"],
        "ftspl: SPL": ["method.ft=false"],
    },
    "dca": {  # tables I-II
        "dca: sep-IAML": [
            "method.semantic_weight=0",
            "method.adversarial_weight=0",
            "method.discrepancy_weight=0",
        ],
        "dca: CMDM-AL": ["method.semantic_weight=0"],
    },
    "daisnet": {  # tables 1-3
        "daisnet: MSE": ["method.alignment=mse"],
        "daisnet: without triplet": ["method.alignment_weight=0", _NO_ENTROPY],
        "daisnet: without MMD 2D": ["method.mmd_2d_weight=0", _NO_ENTROPY],
        "daisnet: without MMD 3D": ["method.mmd_3d_weight=0", _NO_ENTROPY],
        "daisnet: without CE": ["method.classification_weight=0", _NO_ENTROPY],
        "daisnet: without entropy": [_NO_ENTROPY],
    },
}
