"""Texts in the space of an open_clip trunk's features (Radford et al., ICML 2021).

The text tower belongs to the weights of the picture tower: it is loaded from the same file, or
under the same tag, and has the same activation.

Axis letters: n texts, F trunk features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from trainer.networks import library
from trainer.networks.options import NetworkConfig
from trainer.networks.trunk import NetworkError
from trainer.networks.weights import read_tensors, require_fit, weights_to_load

log = logging.getLogger(__name__)

_AT_ONCE = 256  # texts in one pass
_SCALES = ("logit_scale", "logit_bias")
_ARCHIVE = ("input_resolution", "context_length", "vocab_size")  # beside the weights in old files


class ClipTexts(nn.Module):
    """The frozen text tower that goes with a trunk, or the reason why there is none.

    Attributes:
        tower: open_clip's model without its picture tower; None where there are no texts.
        refusal: why there is none, with the remedy.

    Raises:
        NetworkError: weights cannot be had or do not fit.
    """

    tower: Any
    refusal: str | None

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self._backbone, self._weights = config.backbone, config.weights
        self.tower, self.refusal = None, _refusal(config)
        if self.refusal is None:
            tower = _tower(config)
            self.tower, self.refusal = tower, None if tower else self._without_texts()

    def require(self, key: str) -> None:
        """Check that there are texts, which option ``key`` asks for.

        Raises:
            NetworkError: there are none.
        """
        if self.refusal is not None:
            raise NetworkError(f"{key}: {self.refusal}")

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Vectors ``[n, F]`` of length 1; what a longer text has more is cut, with a warning.

        Raises:
            NetworkError: there is no text tower, or its tokenizer cannot be downloaded.
        """
        self.require("texts")
        tokens = self._tokens(list(texts))
        for text, ends in zip(texts, tokens[:, -1].tolist(), strict=True):
            if ends:  # the last place holds the end mark of a text that fills the tower, or more
                log.warning(
                    "text '%s': only the first %d tokens are read", text, tokens.shape[1] - 2
                )
        tokens = tokens.to(self.tower.logit_scale.device)
        passes = [self.tower.encode_text(part) for part in tokens.split(_AT_ONCE)]
        return normalize(torch.cat(passes), dim=1)

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by before the softmax over texts: a scalar."""
        return self.tower.logit_scale.exp().squeeze()

    def train(self, mode: bool = True) -> ClipTexts:
        """As of every module; the tower stays in evaluation mode."""
        super().train(mode)
        if self.tower is not None:
            self.tower.eval()
        return self

    @cached_property
    def _tokens(self) -> Callable[[list[str]], Tensor]:
        name = library.split(self._backbone)[1]
        try:
            return library.imported("open_clip").get_tokenizer(name)
        except Exception as err:  # a download can fail in any way
            raise NetworkError(
                f"network.backbone: the tokenizer of {self._backbone} is downloaded when it is "
                f"first used, and that failed ({type(err).__name__}); let it be downloaded once "
                "with a network, or take a CLIP trunk, such as open_clip/ViT-B-32, whose tokenizer "
                "comes with open_clip"
            ) from err

    def _without_texts(self) -> str:
        return (
            f"network.weights: {self._weights} has weights of the picture tower only; name a file "
            "of the whole model, or a tag"
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.tower is not None and not any(k.startswith(f"{prefix}tower.") for k in state_dict):
            self.tower, self.refusal = None, self._without_texts()
        super()._load_from_state_dict(state_dict, prefix, *args)


def _refusal(config: NetworkConfig) -> str | None:
    if library.split(config.backbone)[0] != "open_clip":
        return (
            f"network.backbone: {config.backbone} has no text tower; set it to open_clip/NAME, "
            "such as open_clip/ViT-B-32"
        )
    if config.pool_tokens is not None:
        return (
            "network.pool_tokens: texts were trained to lie near the features that the library's "
            "own pooling gives; leave it out"
        )
    return None


def _tower(config: NetworkConfig) -> nn.Module | None:
    """The text tower with its weights; None where the file of the weights holds none of it."""
    model = library.text_model(
        config.backbone,
        weights=weights_to_load(config),
        named=config.weights,
        size=config.input_size,
    )
    del model.visual
    weights = weights_to_load(config)
    if library.is_file(weights) and not _load(model, read_tensors(weights), source=weights):
        return None
    return model.requires_grad_(False).eval()


def _load(model: Any, state: Mapping[str, Tensor], *, source: str) -> bool:
    """Copy the text entries of a state dict of pictures and texts; false where it has none."""
    if hasattr(model, "text"):  # older files have the tower's entries beside it
        state = library.imported("open_clip.model").convert_to_custom_text_state_dict(dict(state))
    given = {k: v for k, v in state.items() if not k.startswith(("visual.", *_ARCHIVE))}
    wanted = model.state_dict()
    if not (given.keys() & wanted.keys()).difference(_SCALES):
        return False
    require_fit(given, wanted, source=source, kind="the text tower")
    model.load_state_dict(given)
    return True
