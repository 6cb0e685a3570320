"""Caffe's AlexNet converted: the same features, the preprocessing in the file, clear refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from dataio.loading import Preprocessing, apply
from tests.trainer.converting.caffe_files import blob, layer, network
from trainer.converting.alexnet_weights import alexnet_shapes, convert_alexnet, folded
from trainer.networks import KNOWN_PREPROCESSING, NetworkConfig, NetworkError
from trainer.networks.backbones import build_backbone
from trainer.networks.preprocessing import METADATA_KEY, safetensors_metadata, written_into

CAFFE = KNOWN_PREPROCESSING["caffe"]
SMALL = {
    "conv1.weight": (4, 3, 5, 5),
    "conv1.bias": (4,),
    "conv2.weight": (2, 2, 3, 3),
    "conv2.bias": (2,),
    "fc6.weight": (5, 8),
    "fc6.bias": (5,),
}
PORTED = {"conv1": "features.0", "conv2": "features.4", "fc6": "classifier.1"}


@pytest.fixture(name="state")
def make_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SMALL.items()}


def caffemodel(path: Path, state, *, v1: bool = False, norm_first: bool = False) -> Path:
    """The state as Caffe writes it, with the layers without weights and a classifier behind."""
    order = ["conv1", "pool1", "norm1", "conv2", "fc6"]
    if norm_first:
        order[1:3] = order[2:0:-1]
    layers = []
    left = [name for name in order if name in ("pool1", "norm1") or f"{name}.weight" in state]
    for name in ("data", *left):
        parts = [state[k].numpy() for k in (f"{name}.weight", f"{name}.bias") if k in state]
        layers.append(layer(name, [blob(p, old=v1) for p in parts], v1=v1))
    classes = np.zeros((7, 5), dtype=np.float32)
    layers.append(layer("fc8", [blob(classes, old=v1), blob(classes[:, 0], old=v1)], v1=v1))
    path.write_bytes(network(layers))
    return path


@pytest.mark.parametrize("v1", [False, True])
def test_a_caffemodel_becomes_a_state_dict_that_says_its_preprocessing(tmp_path, state, v1):
    source = caffemodel(tmp_path / "net.caffemodel", state, v1=v1)
    out = tmp_path / "new" / "alexnet.safetensors"
    done = convert_alexnet(source, out, shapes=SMALL)
    loaded = load_file(out)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert written_into(out) == done.preprocessing == CAFFE
    assert list(safetensors_metadata(out)) == [METADATA_KEY]
    assert done.shapes == SMALL
    assert done.left_out == ("fc8",)
    assert done.notes == ()
    config = NetworkConfig(backbone="alexnet", weights=str(out))
    assert config.resolved_preprocessing == CAFFE
    assert config.input_size == 227
    assert [p.name for p in out.parent.iterdir()] == [out.name]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("ported", [False, True])
def test_state_dicts(tmp_path, state, suffix, ported):
    content = {}
    for name, value in state.items():
        place, _, kind = name.partition(".")
        content[f"{PORTED[place] if ported else place}.{kind}"] = value
    head = "classifier.6" if ported else "fc8"
    content |= {f"{head}.weight": torch.zeros(7, 5), f"{head}.bias": torch.zeros(7)}
    source = tmp_path / f"port{suffix}"
    save_file(content, source) if suffix == ".safetensors" else torch.save(content, source)
    done = convert_alexnet(source, tmp_path / "out.safetensors", shapes=SMALL)
    loaded = load_file(done.file)
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    assert sorted(done.left_out) == [f"{head}.bias", f"{head}.weight"]


def by_hand(pixels, weight, bias, preprocessing: Preprocessing, *, stride: int) -> np.ndarray:
    """The first convolution in loops, from uint8 pixels [3, H, W] in the order R, G, B."""
    side = (pixels.shape[1] - weight.shape[2]) // stride + 1
    result = np.zeros((len(weight), side, side))
    for o, y, x in np.ndindex(result.shape):
        total = float(bias[o])
        for c in range(3):
            colour = 2 - c if preprocessing.channels == "bgr" else c
            for i, j in np.ndindex(weight.shape[2:]):
                value = float(pixels[colour, y * stride + i, x * stride + j])
                value *= preprocessing.range / 255
                value = (value - preprocessing.mean[c]) / preprocessing.std[c]
                total += float(weight[o, c, i, j]) * value
        result[o, y, x] = total
    return result


def header(p: Preprocessing) -> str:
    """What a file says of its preprocessing, written by hand."""
    return (
        f'{{"mean": {list(p.mean)}, "std": {list(p.std)}, "channels": "{p.channels}", '
        f'"range": {p.range}, "size": {p.size}, "interpolation": "{p.interpolation}", '
        f'"crop": {p.crop}}}'
    )


@pytest.mark.parametrize(
    "preprocessing",
    [
        CAFFE,
        replace(CAFFE, mean=(90.0, 100.0, 130.0)),
        Preprocessing(),  # ImageNet's
        replace(CAFFE, std=(60.0, 50.0, 40.0)),
    ],
)
def test_named_and_folded_weights_give_the_same_maps(tmp_path, state, preprocessing):
    said = {METADATA_KEY: header(preprocessing)}
    save_file(state, tmp_path / "in.safetensors", metadata=said)
    maps = []
    pixels = torch.randint(0, 256, (2, 3, 13, 13), generator=torch.Generator().manual_seed(1))
    for fold in (False, True):
        out = tmp_path / f"{fold}.safetensors"
        convert_alexnet(tmp_path / "in.safetensors", out, fold=fold, shapes=SMALL)
        known, loaded = written_into(out), load_file(out)
        assert known is not None
        x = apply(pixels.byte(), None, size=13, preprocessing=replace(known, crop=1.0))
        maps.append(F.conv2d(x, loaded["conv1.weight"], loaded["conv1.bias"], stride=2))
        assert torch.equal(loaded["fc6.weight"], state["fc6.weight"])
    identity = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "channels": "rgb", "range": 1}
    assert known == replace(preprocessing, **identity)
    weight, bias = (state[f"conv1.{kind}"].numpy() for kind in ("weight", "bias"))
    expected = torch.tensor(
        np.stack([by_hand(p.numpy(), weight, bias, preprocessing, stride=2) for p in pixels])
    ).float()
    for found in maps:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_folding_changes_nothing_where_nothing_is_to_fold(state):
    weight, bias = state["conv1.weight"], state["conv1.bias"]
    plain = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3)
    for found, expected in zip(folded(weight, bias, plain), (weight, bias), strict=True):
        assert torch.equal(found, expected)


def test_another_mean(tmp_path, state):
    source = caffemodel(tmp_path / "net.caffemodel", state)
    out = tmp_path / "out.safetensors"
    done = convert_alexnet(source, out, mean=(1.0, 2.0, 3.0), shapes=SMALL)
    assert written_into(out) == done.preprocessing == replace(CAFFE, mean=(1.0, 2.0, 3.0))
    again = tmp_path / "again.safetensors"
    with pytest.raises(NetworkError, match="leave the mean out"):
        convert_alexnet(out, again, mean=(1.0, 2.0, 3.0), shapes=SMALL)
    with pytest.raises(NetworkError, match=r"\[0, 255\]"):
        convert_alexnet(source, out, mean=(1.0, 2.0, 300.0), force=True, shapes=SMALL)


def test_another_order_of_pooling_and_normalisation_is_said(tmp_path, state):
    source = caffemodel(tmp_path / "net.caffemodel", state, norm_first=True)
    done = convert_alexnet(source, tmp_path / "out.safetensors", shapes=SMALL)
    assert [note[:24] for note in done.notes] == ["norm1 comes before pool1"]


def drop(state):
    del state["conv2.weight"], state["conv2.bias"]


def cut(state):
    state["conv1.weight"] = state["conv1.weight"][:, :2]


def spoil(state):
    state["fc6.bias"][0] = float("nan")


@pytest.mark.parametrize("kind", ["caffemodel", "pt"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"missing conv2\.weight, conv2\.bias"),
        (cut, r"shape of conv1\.weight \[4, 2, 5, 5\] instead of \[4, 3, 5, 5\]"),
        (spoil, r"no finite numbers in fc6\.bias"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_written(tmp_path, state, kind, change, message):
    change(state)
    source = tmp_path / f"in.{kind}"
    caffemodel(source, state) if kind == "caffemodel" else torch.save(state, source)
    with pytest.raises(NetworkError, match=message):
        convert_alexnet(source, tmp_path / "out.safetensors", shapes=SMALL)
    assert list(tmp_path.iterdir()) == [source]


def test_other_networks_are_refused(tmp_path, state):
    more = layer("bn1", [blob(np.ones(3, dtype=np.float32))])
    source = caffemodel(tmp_path / "in.caffemodel", state)
    source.write_bytes(network([more]) + source.read_bytes())
    out = tmp_path / "out.safetensors"
    with pytest.raises(NetworkError, match="AlexNet has not: bn1"):
        convert_alexnet(source, out, shapes=SMALL)
    one_blob = [blob(state["conv1.weight"].numpy())]
    source.write_bytes(network([layer("conv1", one_blob)]))
    with pytest.raises(NetworkError, match="conv1 has 1 blobs"):
        convert_alexnet(source, out, shapes=SMALL)
    torch.save(state | {"bn1.weight": torch.ones(3)}, tmp_path / "in.pt")
    with pytest.raises(NetworkError, match=r"unexpected bn1\.weight"):
        convert_alexnet(tmp_path / "in.pt", out, shapes=SMALL)


def test_paths_that_cannot_be(tmp_path, state):
    source = caffemodel(tmp_path / "in.caffemodel", state)
    out = tmp_path / "out.safetensors"
    with pytest.raises(NetworkError, match="no such file"):
        convert_alexnet(tmp_path / "other.caffemodel", out)
    with pytest.raises(NetworkError, match="expected a file that ends in"):
        convert_alexnet(tmp_path / "in.h5", out)
    with pytest.raises(NetworkError, match="can say its preprocessing"):
        convert_alexnet(source, tmp_path / "out.pt")
    out.write_bytes(b"mine")
    with pytest.raises(NetworkError, match="exists"):
        convert_alexnet(source, out, shapes=SMALL)
    assert out.read_bytes() == b"mine"
    convert_alexnet(source, out, force=True, shapes=SMALL)
    assert written_into(out) == CAFFE


@pytest.mark.slow
def test_the_trunk_loads_both_and_gives_the_same_features(tmp_path):
    generator = torch.Generator().manual_seed(0)
    source = tmp_path / "in.safetensors"
    save_file(
        {
            name: torch.randn(shape, generator=generator) / max(1, np.prod(shape[1:])) ** 0.5
            for name, shape in alexnet_shapes().items()
        },
        source,
    )
    pixels = torch.randint(0, 256, (2, 3, 256, 256), generator=generator).byte()
    features = []
    for fold in (False, True):
        out = tmp_path / "out.safetensors"
        convert_alexnet(source, out, fold=fold, force=True)
        config = NetworkConfig(backbone="alexnet", weights=str(out))
        trunk = build_backbone(config).eval()
        known = config.resolved_preprocessing
        with torch.no_grad():
            features.append(trunk(apply(pixels, None, size=227, preprocessing=known)))
    source.unlink()
    out.unlink()
    assert features[0].abs().max() > 0.1
    torch.testing.assert_close(features[1], features[0], rtol=1e-4, atol=1e-4)
