"""The shallow methods: what they gain, their state, and that ranks do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dataio.records import DataError
from tests.spawn import run_processes
from tests.trainer.shallow.test_shallow import (
    CLASSES,
    WIDTH,
    gaussian,
    stretched_domains,
    turned_domains,
)
from trainer.building import build_method
from trainer.config import parse_config
from trainer.methods import Domain, Now
from trainer.methods.coral import Coral, CoralConfig
from trainer.methods.gfk import Gfk, GfkConfig
from trainer.methods.jgsa import Jgsa, JgsaConfig
from trainer.methods.meda import Meda, MedaConfig
from trainer.methods.shallow import FittedState, ShallowMethod
from trainer.networks.options import NetworkConfig
from trainer.shallow import fit_coral, fit_gfk
from trainer.shallow.discrepancy import nearest_labels
from trainer.shallow.standardisation import unit_rows

METHODS = {
    "coral": (Coral, CoralConfig(standardise="center")),
    "gfk": (Gfk, GfkConfig(standardise="center", dimension=2)),
    "jgsa": (Jgsa, JgsaConfig(standardise="center", dimension=2)),
    "meda": (Meda, MedaConfig(standardise="center", dimension=2)),
    "meda-manifold": (Meda, MedaConfig(standardise="center", dimension=2, features="manifold")),
}


def shallow_method(name: str, width: int = WIDTH, **options) -> ShallowMethod:
    cls, config = METHODS[name]
    config = config.model_copy(update=options)
    network = NetworkConfig(tiny_width=8, embedding=width, image_size=32)
    torch.manual_seed(0)
    return cls(config, network, num_classes=CLASSES, seed=0).double().eval()


def fitted_on(name: str, source, y, target, **options) -> ShallowMethod:
    method = shallow_method(name, source.shape[1], **options)
    result = method._fit(source, y, target)
    method.fit_result.store({k: torch.from_numpy(np.array(v)) for k, v in result.items()})
    return method


def accuracy(u: np.ndarray, y: np.ndarray, v: np.ndarray, truth: np.ndarray) -> float:
    return float((nearest_labels(u, y, v) == truth).mean())


@pytest.mark.parametrize("name", METHODS)
def test_each_method_improves_nearest_neighbours(name):
    """Over the raw features, and over centred ones: the gain is the fit's own."""
    source, y, target, truth = stretched_domains() if name == "coral" else turned_domains()
    method = fitted_on(name, source, y, target)
    u = method._transformed(torch.from_numpy(source), "source").numpy()
    v = method._transformed(torch.from_numpy(target), "target").numpy()
    raw = accuracy(source, y, target, truth)
    centred = accuracy(source - source.mean(0), y, target - target.mean(0), truth)
    assert accuracy(u, y, v, truth) > max(raw, centred) + 0.15


@pytest.mark.parametrize("standardise", ["none", "center", "zscore"])
@pytest.mark.parametrize("unit_length", [False, True])
def test_embedding_applies_what_the_fit_was_given(standardise, unit_length):
    source, y, target, _ = stretched_domains()
    options = {"standardise": standardise, "unit_length": unit_length}
    method = fitted_on("gfk", source, y, target, **options)
    for side, x in (("source", source), ("target", target)):
        seen = x - x.mean(0) if standardise != "none" else x
        seen = seen / x.std(0) if standardise == "zscore" else seen
        seen = seen / np.linalg.norm(seen, axis=1)[:, None] if unit_length else seen
        expected = seen @ method.fit_result[f"{side}_map"].numpy()
        got = method._transformed(torch.from_numpy(x), side)
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_meda_scores_are_the_classifier_of_its_fit():
    source, y, target, _ = turned_domains()
    method = fitted_on("meda", source, y, target)
    state = method.fit_result
    z = torch.from_numpy(target - target.mean(0)) @ state["target_map"]
    z = unit_rows(z.numpy())
    points, variance = state["points"].numpy(), state["variance"].item()
    expected = [
        sum(
            np.exp(-np.sum((q - p) ** 2) / (2 * variance)) * b
            for p, b in zip(points, state["coefficients"].numpy(), strict=True)
        )
        for q in z[:5]
    ]
    scores = method._transformed(torch.from_numpy(target[:5]), "target")
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-9)


def test_meda_is_fitted_on_at_most_max_samples():
    source, y, target, _ = turned_domains()
    method = fitted_on("meda", source, y, target, max_samples=40)
    assert method.fit_result["points"].shape == (80, 40)


DEGENERATE = {
    "fewer samples than features": (gaussian(4), np.array([0, 1, 2, 0]), gaussian(3, seed=1)),
    "one sample each": (gaussian(1), np.array([1]), gaussian(1, seed=1)),
    "one class": (gaussian(20), np.zeros(20, int), gaussian(15, seed=1)),
    "all zero": (np.zeros((5, WIDTH)), np.array([0, 1, 2, 0, 1]), np.zeros((4, WIDTH))),
    "constant": (np.full((5, WIDTH), 0.1), np.array([0, 1, 2, 0, 1]), np.full((4, WIDTH), 3.7)),
    "constant target": (gaussian(9), np.arange(9) % 3, np.ones((4, WIDTH))),
    "collapsed": (gaussian(9) * [1, 0, 0, 0, 0, 0], np.arange(9) % 3, gaussian(8) * 1e-9),
}


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("name", METHODS)
def test_degenerate_input_is_finite(name, kind):
    source, y, target = DEGENERATE[kind]
    method = fitted_on(name, source, y, target)
    for side, x in (("source", source), ("target", target)):
        assert np.isfinite(method._transformed(torch.from_numpy(x), side).numpy()).all()


@pytest.mark.parametrize("fit", [fit_coral, fit_gfk])
def test_fits_are_deterministic(fit):
    np.testing.assert_array_equal(
        fit(gaussian(30), gaussian(20, seed=1)), fit(gaussian(30), gaussian(20, seed=1))
    )


# The methods in a run

IMAGES, SHAPES, VIEWS, SIDE = 11, 8, 2, 32
COUNTS = {
    1: {"source_images": [11], "target_shapes": [8]},
    2: {"source_images": [7, 4], "target_shapes": [0, 8]},
    3: {"source_images": [0, 2, 9], "target_shapes": [5, 3, 0]},
}


def parts_of(rank: int, world_size: int):
    g = torch.Generator().manual_seed(7)
    pixels = {
        "source_images": torch.randn(IMAGES, 3, SIDE, SIDE, dtype=torch.float64, generator=g),
        "target_shapes": torch.randn(
            SHAPES, VIEWS, 3, SIDE, SIDE, dtype=torch.float64, generator=g
        ),
    }

    def walk(stream: str):
        """My samples in two parts of which one is empty; for two ranks in reversed order."""
        counts, size = COUNTS[world_size][stream], len(pixels[stream])
        order = torch.arange(size).flip(0) if world_size == 2 else torch.arange(size)
        start = sum(counts[:rank])
        mine = order[start : start + counts[rank]]
        for rows in (mine[:0], mine):
            y = rows % CLASSES if stream == "source_images" else torch.full_like(rows, -1)
            yield Domain(pixels[stream][rows], y, samples=rows, size=size)

    return walk


def finished(rank: int, world_size: int, name: str) -> dict[str, np.ndarray]:
    method = shallow_method(name)
    method.finish(parts_of(rank, world_size))
    assert method.fit_result
    return {k: v.double().numpy().copy() for k, v in method.state_dict().items()}


@pytest.mark.parametrize("name", ["coral", "gfk", "jgsa", "meda"])
def test_finish_does_not_depend_on_the_number_of_ranks(name):
    expected = finished(0, 1, name)
    for world_size in (2, 3):
        for state in run_processes(finished, world_size, name):
            assert state.keys() == expected.keys()
            for key, value in state.items():
                np.testing.assert_allclose(value, expected[key], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_state_survives_saving_and_loading(name, tmp_path):
    method = shallow_method(name)
    pixels = torch.randn(3, 3, SIDE, SIDE, dtype=torch.float64)
    raw = method.embed_queries(pixels)
    method.finish(parts_of(0, 1))
    torch.save(method.state_dict(), tmp_path / "state.pt")
    other = shallow_method(name)
    assert torch.equal(other.embed_queries(pixels), raw)  # before a fit: the network's own
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.embed_queries(pixels), method.embed_queries(pixels))
    assert not torch.equal(other.embed_queries(pixels)[:, :3], raw[:, :3])
    views = pixels[:, None].repeat(1, 2, 1, 1, 1)
    assert torch.equal(other.embed_gallery(views), method.embed_gallery(views))
    assert all(
        v.dtype == torch.float64 for k, v in other.fit_result.state_dict().items() if "_" in k
    )
    # A second fit starts from the network again, and an unfitted state takes the fit back.
    other.finish(parts_of(0, 1))
    assert torch.equal(other.embed_queries(pixels), method.embed_queries(pixels))
    other.load_state_dict(shallow_method(name).state_dict())
    assert torch.equal(other.embed_queries(pixels), raw)


def test_a_fit_in_float32_keeps_the_dtype_of_the_embeddings():
    method = shallow_method("meda").float()
    walk = parts_of(0, 1)

    def single(stream: str):
        for part in walk(stream):
            yield Domain(part.pixels.float(), part.labels, samples=part.samples, size=part.size)

    method.finish(single)
    queries = method.embed_queries(torch.randn(2, 3, SIDE, SIDE))
    assert queries.dtype == torch.float32
    assert queries.shape == (2, CLASSES)
    assert method.embed_gallery(torch.randn(0, VIEWS, 3, SIDE, SIDE)).shape == (0, CLASSES)


def test_a_stream_without_samples_is_an_error():
    method, walk = shallow_method("gfk"), parts_of(0, 1)
    with pytest.raises(DataError, match="target_shapes"):
        method.finish(lambda stream: walk(stream) if stream == "source_images" else iter(()))


@pytest.mark.parametrize("name", ["coral", "gfk", "jgsa", "meda"])
def test_training_is_that_of_source_only_bit_for_bit(name):
    def trained(method):
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        for step in range(2):
            g = torch.Generator().manual_seed(step)
            images = torch.randn(5, 3, SIDE, SIDE, generator=g)
            batch = {"source_images": Domain(images, torch.tensor([0, 1, 2, 0, 1]))}
            optimizer.zero_grad()
            method(batch, Now(step, step / 2)).total.backward()
            optimizer.step()
        return dict(method.network.state_dict())

    tree = {"network": {"tiny_width": 8, "embedding": 8, "image_size": SIDE}}
    methods = [
        build_method(parse_config({**tree, "method": {"name": n}}), num_classes=CLASSES)
        for n in (name, "source-only")
    ]
    mine, plain = (trained(m) for m in methods)
    assert mine.keys() == plain.keys()
    assert all(torch.equal(mine[k], plain[k]) for k in plain)


def test_fitted_state_replaces_what_it_holds():
    state = FittedState()
    assert not state
    state.store({"a": torch.ones(2), "b": torch.zeros(3, dtype=torch.float64)})
    assert state
    state.store({"a": torch.ones(4)})
    assert set(state.state_dict()) == {"fitted", "a"}
    assert state["a"].shape == (4,)
