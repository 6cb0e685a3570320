"""Caffe's AlexNet as a file for ``network.backbone=alexnet`` that says its own preprocessing.

Axis letters: O output channels, k×k kernel positions.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from dataio.atomic import write_whole
from dataio.loading import Preprocessing
from trainer.converting.caffe import read_caffemodel
from trainer.networks import (
    KNOWN_PREPROCESSING,
    CaffeAlexNet,
    NetworkError,
    preprocessing_header,
    preprocessing_written_into,
    read_state_dict,
)

BACKBONES = ("alexnet",)
"""The trunks that weights can be converted for."""

_SOURCES = (".caffemodel", ".pt", ".pth", ".safetensors")
_FIRST = "conv1"
_SHOWN = 4
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        file: the written file.
        shapes: shape of each written tensor by its name.
        left_out: layers or entries of the source that the trunk has no place for.
        preprocessing: what the file says of the pictures.
        notes: what the user should know of this source, a sentence each.
    """

    file: Path
    shapes: dict[str, tuple[int, ...]]
    left_out: tuple[str, ...]
    preprocessing: Preprocessing
    notes: tuple[str, ...]


def convert_alexnet(
    source: Path,
    out: Path,
    *,
    mean: tuple[float, float, float] | None = None,
    fold: bool = False,
    force: bool = False,
    shapes: Shapes | None = None,
) -> Conversion:
    """Write the weights of Caffe's AlexNet in ``source`` as ``out``, with their preprocessing.

    The preprocessing is the one in the header of a ``.safetensors`` source, else Caffe's: BGR in
    [0, 255] minus a mean colour.

    Args:
        source: a ``.caffemodel``, or a state dict (.pt, .pth, .safetensors) with Caffe's names or
            those of its ports to PyTorch.
        out: a ``.safetensors`` file; it is written whole or not at all.
        mean: the mean colour B, G, R in [0, 255]; None: that of Caffe's ilsvrc_2012_mean.npy.
        fold: put colour order, range and mean into the first convolution: the trunk then takes RGB
            in [0, 1]. That is exact, since this convolution pads nothing.
        force: replace ``out`` if it exists.
        shapes: shape of each tensor of the trunk; None: AlexNet's.

    Raises:
        NetworkError: ``source`` cannot be read or does not fit, or ``out`` cannot be written.
    """
    try:
        from safetensors.torch import save
    except ImportError:
        raise NetworkError(
            f"{out}: writing it needs the package safetensors; pip install 'img2shape[weights]'"
        ) from None
    _require_paths(source, out, force=force)
    if mean is not None and not all(0 <= value <= 255 for value in mean):
        raise NetworkError(f"the mean colour is B, G, R in [0, 255], not {mean}")
    wanted = alexnet_shapes() if shapes is None else shapes
    if source.suffix == ".caffemodel":
        state, left_out, notes = _of_caffemodel(source, wanted)
    else:
        state, left_out = _of_state_dict(source)
        notes = ()
    state = _fitted(state, wanted, source=source)
    preprocessing = _preprocessing(source, mean)
    if fold:
        weight, bias = f"{_FIRST}.weight", f"{_FIRST}.bias"
        state[weight], state[bias] = folded(state[weight], state[bias], preprocessing)
        zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        preprocessing = replace(preprocessing, mean=zero, std=one, channels="rgb", range=1)
    content = save(state, metadata=preprocessing_header(preprocessing))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, content)
    written = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return Conversion(out, written, left_out, preprocessing, notes)


def alexnet_shapes() -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of AlexNet by its name."""
    return {name: tuple(tensor.shape) for name, tensor in _without_memory().state_dict().items()}


def folded(weight: Tensor, bias: Tensor, preprocessing: Preprocessing) -> tuple[Tensor, Tensor]:
    """A first convolution for RGB in [0, 1] that gives what this one gives for preprocessed
    pictures, where it pads nothing.

    Args:
        weight: ``[O, 3, k, k]``.
        bias: ``[O]``.
        preprocessing: of the pictures that these are made for.
    """
    mean, std = (
        torch.tensor(values, dtype=torch.float64)[:, None, None]
        for values in (preprocessing.mean, preprocessing.std)
    )
    scaled = weight.double() / std
    shifted = bias.double() - (scaled * mean).sum((1, 2, 3))
    scaled = scaled * preprocessing.range
    if preprocessing.channels == "bgr":
        scaled = scaled.flip(1)
    return scaled.to(weight.dtype).contiguous(), shifted.to(bias.dtype)


def _require_paths(source: Path, out: Path, *, force: bool) -> None:
    if source.suffix not in _SOURCES:
        raise NetworkError(f"{source}: expected a file that ends in {', '.join(_SOURCES)}")
    if not source.is_file():
        raise NetworkError(f"{source}: no such file")
    if out.suffix != ".safetensors":
        raise NetworkError(f"{out}: only a .safetensors file can say its preprocessing")
    if out.is_dir() or (out.exists() and not force):
        raise NetworkError(f"{out}: exists; use another name, or --force to replace it")


def _without_memory() -> CaffeAlexNet:
    with torch.device("meta"):
        return CaffeAlexNet(image_size=227, dropout=0)


def _of_caffemodel(
    source: Path, wanted: Shapes
) -> tuple[dict[str, Tensor], tuple[str, ...], tuple[str, ...]]:
    """Tensors by name, the layers behind the trunk's last one, and notes."""
    layers = read_caffemodel(source)
    own = {name.rpartition(".")[0] for name in wanted}
    state: dict[str, Tensor] = {}
    for name in sorted(own & layers.keys()):
        if len(layers[name]) != 2:
            raise NetworkError(
                f"{source}: layer {name} has {len(layers[name])} blobs instead of weights and "
                "biases"
            )
        state |= zip((f"{name}.weight", f"{name}.bias"), layers[name], strict=True)
    order = list(layers)
    last = max((order.index(name) for name in own & layers.keys()), default=len(order))
    other = [name for name in order if layers[name] and name not in own]
    before = [name for name in other if order.index(name) < last]
    if before:
        raise NetworkError(
            f"{source}: not Caffe's AlexNet: it has layers with weights that AlexNet has not: "
            f"{_some(before)}"
        )
    notes = [
        f"norm{i} comes before pool{i} in this network; alexnet pools first, as Caffe's reference "
        "model does, so its features differ from this network's"
        for i in (1, 2)
        if {f"norm{i}", f"pool{i}"} <= layers.keys()
        and order.index(f"norm{i}") < order.index(f"pool{i}")
    ]
    return state, tuple(other), tuple(notes)


def _of_state_dict(source: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors under the trunk's names, and the entries of the classifier."""
    state = read_state_dict(source)
    left_out = tuple(name for name in state if name.startswith(CaffeAlexNet.heads))
    return _without_memory().adapted(state), left_out


def _fitted(state: Mapping[str, Tensor], wanted: Shapes, *, source: Path) -> dict[str, Tensor]:
    """The tensors as float32 in the order and the shapes of ``wanted``."""
    given = {
        name: _with_axes(tensor, len(wanted[name])) if name in wanted else tensor
        for name, tensor in state.items()
    }
    shapes = [
        f"{name} {list(given[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in given and tuple(given[name].shape) != tuple(shape)
    ]
    missing = [name for name in wanted if name not in given]
    unexpected = [name for name in given if name not in wanted]
    odd = [n for n, t in given.items() if not (t.is_floating_point() and bool(t.isfinite().all()))]
    kinds = {
        "missing": missing,
        "unexpected": unexpected,
        "shape of": shapes,
        "values that are no finite numbers in": odd,
    }
    faults = [f"{kind} {_some(names)}" for kind, names in kinds.items() if names]
    if faults:
        raise NetworkError(f"{source}: not Caffe's AlexNet: {'; '.join(faults)}")
    return {name: given[name].float().contiguous() for name in wanted}


def _with_axes(tensor: Tensor, count: int) -> Tensor:
    """Without the leading axes of length 1 that Caffe's old format adds."""
    while tensor.dim() > count and len(tensor) == 1:
        tensor = tensor[0]
    return tensor


def _preprocessing(source: Path, mean: tuple[float, float, float] | None) -> Preprocessing:
    written = preprocessing_written_into(source)
    if written is not None and mean is not None:
        raise NetworkError(
            f"{source}: says its preprocessing ({written.describe()}), so leave the mean out"
        )
    caffe = KNOWN_PREPROCESSING["caffe"]
    return written or (caffe if mean is None else replace(caffe, mean=mean))


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(list(names)[:_SHOWN]) + more
