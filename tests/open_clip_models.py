"""Small models of open_clip with random weights, in its registry for this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from trainer.networks.torchvision_shim import import_torchvision

CLIP, MAP = "made-clip", "made-map"
"""Like OpenAI's CLIP, and like SigLIP: timm's trunk with attention pooling."""

_TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
_MODELS: dict[str, dict[str, Any]] = {
    CLIP: {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2
        },
        "text_cfg": _TEXT,
    },
    MAP: {
        "embed_dim": 192,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "vit_tiny_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        },
        "text_cfg": {**_TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
}  # fmt: skip


def made_models(folder: Path) -> None:
    """Register the models, and for CLIP tags ``plain`` and ``quick`` of the same weights, of which
    the second want QuickGELU; configurations and weights are written into ``folder``."""
    import_torchvision()
    import open_clip
    from open_clip import pretrained

    for name, config in _MODELS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    file = str(write_weights(CLIP, folder / "weights.pt"))
    pretrained._PRETRAINED[CLIP] = {
        "plain": {"file": file},
        "quick": {"file": file, "quick_gelu": True},
    }


def write_weights(name: str, file: Path, *, texts: bool = True) -> Path:
    """A state dict of a model with random weights, or of its picture tower alone."""
    import open_clip

    torch.manual_seed(1)
    state = open_clip.create_model(name).state_dict()
    for key, value in state.items():
        if value.dim() > 1:  # so that activations leave the part where GELU and QuickGELU agree
            state[key] = value * 2
    torch.save({k: v for k, v in state.items() if texts or k.startswith("visual.")}, file)
    return file
