"""Reading Caffe's files: both formats, all ways to write a blob, and files that are something
else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.trainer.converting.caffe_files import blob, layer, network, number, text
from trainer.converting.caffe import read_caffemodel, read_mean
from trainer.networks import NetworkError

WEIGHT = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7
BIAS = np.array([0.5, -3e-7], dtype=np.float32)


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_layers_and_blobs(tmp_path, v1, packed, double, old):
    how = {"packed": packed, "double": double, "old": old}
    path = tmp_path / "net.caffemodel"
    parts = [blob(WEIGHT, **how) + text(6, b"\0" * 96), blob(BIAS, **how)]  # 6: the gradient
    path.write_bytes(
        network([layer("data", v1=v1), layer("conv1", parts, v1=v1), layer("relu1", v1=v1)])
    )
    found = read_caffemodel(path)
    assert list(found) == ["data", "conv1", "relu1"]
    assert found["data"] == found["relu1"] == ()
    weight, bias = found["conv1"]
    assert weight.dtype == bias.dtype == torch.float32
    assert torch.equal(weight, torch.from_numpy(WEIGHT))
    expected = BIAS.reshape(1, 1, 1, 2) if old else BIAS
    assert torch.equal(bias, torch.from_numpy(expected))


def test_a_layer_of_both_phases_counts_once(tmp_path):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(network([layer("a", [blob(BIAS)]), layer("a"), layer("b")]))
    assert [len(blobs) for blobs in read_caffemodel(path).values()] == [1, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>not found</html>", r"not Caffe's \.caffemodel"),
        (network([layer("a", [blob(WEIGHT)])])[:-9], r"not Caffe's \.caffemodel"),
        (b"", "without weights"),
        (network([layer("a")]), "without weights"),
        (network([layer("a", [blob(WEIGHT)[:-3] + b"\2\2\2"])]), "24 numbers .* shape"),
        (network([text(2, text(1, text(1, b"conv1")))]), "upgrade_net_proto_binary"),
        (network([layer("a", [blob(BIAS)])] * 2), "two layers a"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(NetworkError, match=message) as err:
        read_caffemodel(path)
    assert str(path) in str(err.value)


def test_a_mean_picture_is_averaged_over_its_positions(tmp_path):
    picture = np.random.default_rng(0).uniform(0, 255, (3, 5, 4)).astype(np.float32)
    colour = [sum(float(v) for v in plane.ravel()) / 20 for plane in picture]
    paths = [tmp_path / name for name in ("old.binaryproto", "new.binaryproto", "m.npy", "c.npy")]
    paths[0].write_bytes(blob(picture, old=True))
    paths[1].write_bytes(blob(picture))
    np.save(paths[2], picture)
    np.save(paths[3], np.array(colour))
    for path in paths:
        assert read_mean(path) == pytest.approx(colour, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.npy", None, "no such file"),
        ("m.npy", b"nothing", "no array"),
        ("m.binaryproto", b"<html>", "not Caffe's .binaryproto"),
        ("m.binaryproto", blob(BIAS), "three colours"),
        ("m.binaryproto", number(1, 3), "three colours"),
    ],
)
def test_other_means_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NetworkError, match=message):
        read_mean(path)


def test_only_numbers_are_read_from_an_array(tmp_path):
    path = tmp_path / "m.npy"
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(NetworkError, match="no array"):
        read_mean(path)
    np.save(path, np.array(["b", "g", "r"]))
    with pytest.raises(NetworkError, match="no array"):
        read_mean(path)
    with path.open("wb") as file:
        np.savez(file, mean=np.zeros(3))
    with pytest.raises(NetworkError, match="no array"):
        read_mean(path)
