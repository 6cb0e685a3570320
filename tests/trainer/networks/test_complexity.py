"""Published parameter and multiply-add counts, and independent counts of the same networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer.networks.complexity import complexity, measure
from trainer.networks.heads import Discriminator
from trainer.networks.network import RetrievalNetwork
from trainer.networks.options import NetworkConfig


def on_meta(backbone: str, **options) -> RetrievalNetwork:
    with torch.device("meta"):
        return RetrievalNetwork(NetworkConfig.model_validate({"backbone": backbone}), 21, **options)


def test_caffe_alexnet_as_published():
    cost = complexity(on_meta("alexnet"))
    assert cost.parameters == 57_922_453
    assert cost.multiply_adds == 723_193_408
    assert cost.bare_multiply_adds == 721_364_768


def test_caffe_alexnet_with_discriminator_as_published():
    cost = complexity(on_meta("alexnet", discriminator=True))
    assert cost.parameters == 59_236_246
    assert cost.multiply_adds == 724_507_200


@pytest.mark.parametrize(
    "stages", [("conv4", "conv5"), ("conv1", "conv2", "conv3", "conv4", "conv5")]
)
def test_gates_cost_one_parameter_each(stages):
    cost = complexity(on_meta("alexnet", discriminator=True, gated_stages=stages))
    assert cost.parameters == 59_236_246 + len(stages)
    assert cost.multiply_adds == 724_507_200


def test_discriminator_as_published():
    assert sum(p.numel() for p in Discriminator(256).parameters()) == 1_313_793


@pytest.mark.parametrize("backbone", ["tiny", "alexnet", "resnet18"])
def test_bare_count_is_that_of_pytorch(backbone):
    network = on_meta(backbone, discriminator=True).eval()
    size = network.config.input_size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        f = network.embed_images(torch.zeros(1, 3, size, size, device="meta"))
        network.classify(f)
        network.discriminate(f, f[:0])
    assert complexity(network).bare_multiply_adds * 2 == counter.get_total_flops()


def test_resnet_difference_is_the_trunks():
    small, large = (complexity(on_meta(b)).parameters for b in ("resnet18", "resnet34"))
    assert round((large - small) / 1e6, 2) == 10.11


def test_layers_add_up_by_hand():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, groups=1),  # 7x7 outputs
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(7),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    cost = measure(model, lambda: model(torch.zeros(1, 3, 15, 15)))
    positions = 8 * 7 * 7
    by_hand = [positions * (27 + 1), 2 * positions, positions, positions, 0, 40]
    assert [layer.multiply_adds for layer in cost.layers] == by_hand
    assert cost.multiply_adds == sum(by_hand)
    assert cost.bare_multiply_adds == positions * 27 + 40
    assert cost.layers[0].output_shape == (8, 7, 7)
    assert sum(layer.parameters for layer in cost.layers) == cost.parameters


def test_layer_used_twice_counts_twice():
    relu = nn.ReLU()
    model = nn.Sequential(nn.Linear(4, 4), relu)
    cost = measure(model, lambda: relu(model(torch.zeros(1, 4))))
    assert cost.multiply_adds == 16 + 2 * 4


def test_state_is_left_alone():
    network = RetrievalNetwork(NetworkConfig(), 3).train()
    network.classifier.eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    assert complexity(network) == complexity(network)
    assert network.training
    assert not network.classifier.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks for m in network.modules())


def test_the_layers_add_up_to_the_total_gates_included():
    network = RetrievalNetwork(NetworkConfig(), 5, gated_stages=("conv3", "conv4"))
    cost = complexity(network)
    assert sum(layer.parameters for layer in cost.layers) == cost.parameters
    assert [layer.parameters for layer in cost.layers if layer.name == "gates.h"] == [2]
