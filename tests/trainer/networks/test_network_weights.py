"""Loading weights into trunks: what is accepted, and what the errors say."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from trainer.networks.alexnet import CaffeAlexNet
from trainer.networks.backbones import ResNet, build_backbone
from trainer.networks.network import RetrievalNetwork
from trainer.networks.options import NetworkConfig
from trainer.networks.torchvision_shim import import_torchvision
from trainer.networks.weights import NetworkError, load_trunk, read_state_dict


def config(weights: object, backbone: str = "tiny", **options) -> NetworkConfig:
    return NetworkConfig.model_validate({"backbone": backbone, "weights": str(weights), **options})


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "alexnet-tv"])
def test_torchvision_state_dict_gives_torchvision_features(tmp_path, backbone):
    torch.manual_seed(0)
    reference = import_torchvision().models.get_model(backbone.removesuffix("-tv"), weights=None)
    path = save(tmp_path / "w.pt", reference.state_dict())
    trunk = build_backbone(config(path, backbone, image_size=96)).eval()
    if backbone == "alexnet-tv":
        reference.classifier[6] = torch.nn.Identity()
    else:
        reference.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(trunk(x), reference.eval()(x))
        assert trunk(x).shape == (2, trunk.width)


def test_wrapped_and_prefixed_state_dicts(tmp_path):
    torch.manual_seed(1)
    network = RetrievalNetwork(NetworkConfig(), 3)
    state, trunk = network.state_dict(), network.trunk.state_dict()
    accepted = {
        "bare": trunk,
        "keyed": {"state_dict": trunk, "epoch": 3},
        "wrapped": {f"module.{k}": v for k, v in trunk.items()},
        "whole": state,
        "method": {f"module.network.{k}": v for k, v in state.items()},
    }
    for name, content in accepted.items():
        loaded = build_backbone(config(save(tmp_path / name, content))).state_dict()
        assert all(torch.equal(loaded[k], v) for k, v in trunk.items()), name


def test_ported_caffe_names_are_understood():
    torch.manual_seed(0)
    source = CaffeAlexNet(image_size=227, dropout=0.5)
    state = source.state_dict()
    places = {"conv1": 0, "conv2": 4, "conv3": 8, "conv4": 10, "conv5": 12}
    names = {n: f"features.{i}" for n, i in places.items()}
    names |= {"fc6": "classifier.1", "fc7": "classifier.4"}
    ported = {f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in state.items()}
    ported["classifier.6.weight"] = torch.zeros(1000, 4096)
    with torch.device("meta"):
        target = CaffeAlexNet(image_size=227, dropout=0.5)
    target.to_empty(device="cpu")
    load_trunk(target, ported, source="test")
    assert all(torch.equal(v, state[k]) for k, v in target.state_dict().items())


def test_mismatches_are_named(tmp_path):
    state = build_backbone(NetworkConfig()).state_dict()
    state["conv2.weight"] = state["conv2.weight"][:5]
    del state["norm1.bias"]
    state["extra"] = torch.zeros(1)
    path = save(tmp_path / "w.pt", state)
    with pytest.raises(NetworkError) as err:
        build_backbone(config(path))
    message = str(err.value)
    assert "\n" not in message
    for part in (
        str(path),
        "missing norm1.bias",
        "unexpected extra",
        "conv2.weight [5, 16, 3, 3] instead of [32, 16, 3, 3]",
    ):
        assert part in message


def test_many_mismatches_are_counted():
    with torch.device("meta"):
        trunk = ResNet("resnet18")
    with pytest.raises(NetworkError, match=r"missing conv1\.weight, .* and \d+ more"):
        load_trunk(trunk, {"fc.weight": torch.zeros(1)}, source="test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"not a checkpoint", "not readable"),
        ([1, 2], "no state dict"),
        ({}, "no state dict"),
        ({"a": 1}, "a not a tensor"),
    ],
)
def test_unusable_files(tmp_path, content, message):
    path = tmp_path / "w.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save(path, content)
    with pytest.raises(NetworkError, match=message) as err:
        read_state_dict(path)
    assert str(path) in str(err.value)
    assert "\n" not in str(err.value)


class _Payload:
    """Unpickled without restraint, this opens (and so makes) a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_code_in_a_file_is_not_run(tmp_path):
    path = save(tmp_path / "w.pt", {"a": _Payload(tmp_path / "ran")})
    with pytest.raises(NetworkError, match="not readable"):
        read_state_dict(path)
    assert not (tmp_path / "ran").exists()


def test_failed_download_names_the_other_choices(monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    import_torchvision()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(NetworkError) as err:
        build_backbone(config("imagenet", "resnet18"))
    message = str(err.value)
    assert "\n" not in message
    assert "no route to host" in message
    assert "network.weights=none" in message
    assert "network.weights=/path/to/state_dict.pt" in message


@pytest.mark.parametrize(("backbone", "remedy"), [("alexnet", "alexnet-tv"), ("tiny", "none")])
def test_backbones_without_imagenet_weights_say_so(backbone, remedy):
    with pytest.raises(NetworkError, match=f"no ImageNet weights for {backbone}; .*{remedy}"):
        build_backbone(config("imagenet", backbone))


def test_downloaded_weights_are_the_original_ones(monkeypatch):
    urls = []

    def pretend(url: str, **options: object) -> dict[str, torch.Tensor]:
        urls.append(url)
        return {k: torch.full_like(v, 2) for k, v in ResNet("resnet18").state_dict().items()}

    import_torchvision()
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", pretend)
    network = RetrievalNetwork(config("imagenet", "resnet18"), 3)
    assert (network.trunk.get_parameter("conv1.weight") == 2).all()
    assert network.pretrained
    assert urls[0].endswith("resnet18-f37072fd.pth")


def test_frozen_statistics_without_weights_are_warned_about(caplog):
    with torch.device("meta"), caplog.at_level(logging.WARNING):
        build_backbone(config("none", "resnet18", batch_norm="frozen"))
    assert "nothing is normalised" in caplog.text
