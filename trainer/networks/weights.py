"""Initial weights of a trunk: a library's, a Python package's, or a state dict in a file."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dataio.loading import Preprocessing
from trainer.networks import library
from trainer.networks.options import OWN, NetworkConfig
from trainer.networks.preprocessing import safetensors_metadata
from trainer.networks.torchvision_shim import import_torchvision
from trainer.networks.trunk import Backbone, NetworkError

logger = logging.getLogger(__name__)

_CHOICES = "network.weights=none or network.weights=/path/to/state_dict.pt"
_NO_IMAGENET = ("tiny", "alexnet")
_SHOWN = 4


_skipped: ContextVar[bool] = ContextVar("weights_skipped", default=False)


@contextmanager
def without_weights() -> Iterator[None]:
    """In this block trunks are built with new weights, whatever ``network.weights`` says: theirs
    come from a checkpoint, or do not matter. Nothing is read or downloaded."""
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)


def weights_to_load(config: NetworkConfig) -> str:
    """``network.weights``, or ``none`` where they are not wanted."""
    return "none" if _skipped.get() else config.weights


def initialise(trunk: Backbone, config: NetworkConfig) -> None:
    """Load what ``config.weights`` names into ``trunk``; ``none`` leaves it as it is, and a
    library has loaded what is in its registry.

    Raises:
        NetworkError: the weights do not exist, cannot be downloaded or read, or do not fit.
    """
    if _skipped.get():
        return
    if config.weights == "none":
        if config.batch_norm == "frozen" and config.backbone.startswith("resnet"):
            logger.warning(
                "network.batch_norm=frozen with network.weights=none: the frozen statistics are "
                "mean 0 and variance 1, so nothing is normalised until weights are loaded"
            )
    elif config.weights.startswith(library.PACKAGE):
        name = library.require_package(config.backbone, config.weights)
        state = read_state_dict(library.package_file(name))
        load_trunk(trunk, _in_order(state, config.backbone), source=config.weights)
    elif library.is_file(config.weights):
        load_trunk(trunk, read_state_dict(config.weights), source=config.weights)
    elif config.backbone not in OWN:
        return
    elif config.weights == "imagenet":
        load_trunk(trunk, _download(config.backbone), source=f"ImageNet {config.backbone}")
    else:
        raise NetworkError(
            f"network.weights: '{config.weights}' is neither imagenet nor none, nor the path of a "
            f"file (with a slash, or ending in .pt, .pth or .safetensors); {config.backbone} has "
            "no registry of tags"
        )


def _in_order(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """A state dict of other names for the same layers in the same order, under the library's."""
    names = library.entry_names(backbone)
    if len(names) != len(state):
        raise NetworkError(
            f"network.weights: {len(state)} entries where {backbone} has {len(names)}"
        )
    return dict(zip(names, state.values(), strict=True))


@dataclass(frozen=True)
class NamedWeights:
    """Weights that have a name, so that no file need be given.

    Attributes:
        name: the value of ``network.weights``.
        preprocessing: of the pictures that they were trained on.
        file: where they are on this machine; None: they would be downloaded.
    """

    name: str
    preprocessing: Preprocessing
    file: Path | None


def named_weights(backbone: str) -> list[NamedWeights]:
    """The weights of a trunk that have a name: of installed packages, of torchvision or of a
    library's registry. Nothing is downloaded.

    Raises:
        NetworkError: no such trunk, or its library is not installed.
    """
    files: dict[str, Path | None]
    if backbone in OWN:
        none = backbone in _NO_IMAGENET
        files = (
            {} if none else {"imagenet": library.in_torch_cache(_torchvision_weights(backbone).url)}
        )
    else:
        try:
            library.require_name(backbone, own=OWN)
        except ValueError as err:
            raise NetworkError(f"network.{err}") from None
        here = [name for name, trunk in library.installed_packages().items() if trunk == backbone]
        packages = {name: library.package_file(name.removeprefix(library.PACKAGE)) for name in here}
        files = {**packages, **library.registered(backbone)}
    return [
        NamedWeights(
            name, NetworkConfig(backbone=backbone, weights=name).resolved_preprocessing, file
        )
        for name, file in files.items()
    ]


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """:func:`read_tensors`; if a file holds a whole network of this project, only its trunk."""
    return _trunk_only(read_tensors(path))


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict file by name, on the CPU; no code in the file is run.

    Accepted are a bare state dict and ``{"state_dict": ...}``. The prefix ``module.`` (a saved
    data-parallel wrapper) is cut off. A ``.safetensors`` file can hold nothing else.

    Raises:
        NetworkError: no such file, or not such a state dict.
    """
    if Path(path).suffix == ".safetensors":
        safetensors_metadata(path)  # says what is wrong with the file
        from safetensors.torch import load_file

        return load_file(str(path))
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NetworkError(
            f"network.weights: {path}: no such file; the other choices are imagenet and none"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as err:
        raise NetworkError(
            f"network.weights: {path}: not readable as a state dict of tensors "
            f"({type(err).__name__}); save it with torch.save(model.state_dict(), path)"
        ) from None
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise NetworkError(f"network.weights: {path}: holds no state dict; {_EXPECTED}")
    odd = [str(k) for k, v in content.items() if not isinstance(v, Tensor)]
    if odd:
        raise NetworkError(f"network.weights: {path}: {_some(odd)} not a tensor; {_EXPECTED}")
    return {str(k).removeprefix("module."): v for k, v in content.items()}


_EXPECTED = "expected tensors by name, bare or under the key state_dict"


def load_trunk(trunk: Backbone, state: Mapping[str, Tensor], *, source: str) -> None:
    """Copy ``state`` into ``trunk``; entries of a classifier head are left out.

    Raises:
        NetworkError: an entry is missing, unexpected or of another shape; ``source`` says whose.
    """
    given = trunk.adapted(state)
    require_fit(given, trunk.state_dict(), source=source, kind=type(trunk).__name__)
    trunk.load_state_dict(given, strict=False)


def require_fit(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str, kind: str
) -> None:
    """Check that ``given`` has the entries of the state dict ``wanted``.

    Raises:
        NetworkError: an entry is missing, unexpected or of another shape; ``source`` says whose,
            ``kind`` of what.
    """
    # Old files lack this counter, which only matters without momentum.
    optional = {k for k in wanted if k.endswith("num_batches_tracked")}
    missing = [k for k in wanted if k not in given and k not in optional]
    unexpected = [k for k in given if k not in wanted]
    shapes = [
        f"{k} {list(given[k].shape)} instead of {list(wanted[k].shape)}"
        for k in wanted
        if k in given and given[k].shape != wanted[k].shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "shape of": shapes}
    faults = [f"{kind} {_some(names)}" for kind, names in found.items() if names]
    if faults:
        raise NetworkError(f"network.weights: {source} does not fit {kind}: {'; '.join(faults)}")


def _trunk_only(state: dict[str, Tensor]) -> dict[str, Tensor]:
    # open_clip has a trunk of its own: `visual.trunk`, with a head that belongs to it.
    found = {k: re.search(r"(?:^|(?<!^visual)\.)trunk\.(.+)", k) for k in state}
    inside = {match[1]: state[k] for k, match in found.items() if match}
    return inside or state


def _download(backbone: str) -> Mapping[str, Tensor]:
    """torchvision's ImageNet weights (the original ones, V1) through its registry."""
    if backbone in _NO_IMAGENET:
        remedy = "use network.backbone=alexnet-tv, or " if backbone == "alexnet" else "use "
        raise NetworkError(
            f"network.weights=imagenet: torchvision has no ImageNet weights for {backbone}; "
            f"{remedy}{_CHOICES}"
        )
    weights = _torchvision_weights(backbone)
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as err:  # a download can fail in any way
        raise NetworkError(
            f"network.weights=imagenet: download of {weights.url} failed "
            f"({_first_line(err)}); the other choices are {_CHOICES}"
        ) from err


def _torchvision_weights(backbone: str) -> Any:
    models = import_torchvision().models
    return models.get_model_weights(backbone.removesuffix("-tv"))["IMAGENET1K_V1"]


def _first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {str(err).strip().splitlines()[0] if str(err).strip() else ''}"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
