"""Zero-shot: values against plain loops, means and texts, engines, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataio.records import DataError
from tests.open_clip_models import CLIP, MAP, made_models, write_weights
from tests.spawn import run_alone, run_processes
from trainer.building import build_method
from trainer.config import ConfigError, RunConfig, parse_config
from trainer.engines.data_parallel import DataParallel
from trainer.engines.zero import Zero
from trainer.extraction.trained_run import extract, load_run, untrained
from trainer.inputs.open_data import OpenData
from trainer.loop import train
from trainer.methods import Domain
from trainer.methods.zero_shot import ZeroShot
from trainer.networks.trunk import NetworkError
from trainer.runs.run_folder import RunFolder
from trainer.sections import OptimizerConfig

SIDE, VIEWS = 32, 3
CLASSES = ("office_chair", "table", "cup")
ROWS = {"source_images": 7, "target_shapes": 5}
PARTS = {  # rows of each part on each rank; a rank may have none
    1: {"source_images": [[4, 3]], "target_shapes": [[5]]},
    2: {"source_images": [[7, 0], [0, 0]], "target_shapes": [[0, 2], [3, 0]]},
    3: {"source_images": [[0], [2], [5]], "target_shapes": [[4], [0], [1]]},
}


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory) -> None:
    made_models(tmp_path_factory.mktemp("models"))


def zero_shot(network: dict[str, Any] | None = None, **options: Any) -> ZeroShot:
    """In float64, on a small trunk with random weights."""
    tree = {
        "method": {"name": "zero-shot", **options},
        "network": {"tiny_width": 8, "image_size": SIDE, **(network or {})},
        "training": {"precision": "float64", "seed": 3},
    }
    method = build_method(parse_config(tree), num_classes=len(CLASSES), classes=CLASSES)
    assert isinstance(method, ZeroShot)
    return method.eval()


def rows_of(stream: str) -> torch.Tensor:
    g = torch.Generator().manual_seed(len(stream))
    views = (VIEWS,) if stream == "target_shapes" else ()
    shape = (ROWS[stream], *views, 3, SIDE, SIDE)
    # Each row has a brightness of its own, so that norms differ.
    level = torch.rand(ROWS[stream], *[1] * (len(shape) - 1), generator=g)
    return (torch.randn(shape, generator=g) * 3 * level).double()


def walk_of(rank: int, world_size: int):
    def walk(stream: str) -> Iterator[Domain]:
        counts = PARTS[world_size][stream]
        start = sum(sum(part) for part in counts[:rank])
        for count in counts[rank]:
            rows = torch.arange(start, start + count)
            start += count
            hidden = torch.full((count,), -1)
            yield Domain(rows_of(stream)[rows], hidden, samples=rows, size=ROWS[stream])

    return walk


def trunk_features(method: ZeroShot, pixels: torch.Tensor) -> list[list[float]]:
    """One picture at a time."""
    with torch.no_grad():
        return [method.network.trunk(x[None])[0].tolist() for x in pixels]


def slow_embedding(method: ZeroShot, pixels: torch.Tensor, *, normalise: bool, pool: str):
    """Embeddings of images or shapes with plain loops."""
    found = []
    for sample in pixels:
        views = trunk_features(method, sample if sample.dim() == 4 else sample[None])
        if normalise:
            views = [[x / sum(y * y for y in v) ** 0.5 for x in v] for v in views]
        columns = list(zip(*views, strict=True))
        found.append([max(c) if pool == "max" else sum(c) / len(c) for c in columns])
    return np.array(found)


@pytest.mark.parametrize("pool", ["max", "mean"])
@pytest.mark.parametrize("normalise", [True, False])
def test_embeddings_and_means_equal_plain_loops(pool, normalise):
    for centre in (False, True):
        method = zero_shot({"pool": pool}, normalise=normalise, centre=centre)
        method.finish(walk_of(0, 1))
        options = {"normalise": normalise, "pool": pool}
        for stream, embed in (
            ("source_images", method.embed_queries),
            ("target_shapes", method.embed_gallery),
        ):
            expected = slow_embedding(method, rows_of(stream), **options)
            if centre:
                expected = expected - [sum(c) / len(c) for c in expected.T]
            found = embed(rows_of(stream)).numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert not any(p.requires_grad for p in method.parameters())


def finished(rank: int, world_size: int) -> dict[str, np.ndarray]:
    method = zero_shot(centre=True)
    method.finish(walk_of(rank, world_size))
    return {k: v.double().numpy().copy() for k, v in method.fit_result.state_dict().items()}


def test_means_do_not_depend_on_the_number_of_ranks():
    expected = finished(0, 1)
    assert expected.keys() == {"fitted", "image_mean", "shape_mean"}
    for world_size in (2, 3):
        for found in run_processes(finished, world_size):
            assert found.keys() == expected.keys()
            for key, value in found.items():
                np.testing.assert_allclose(value, expected[key], rtol=1e-12, atol=1e-15)


def test_means_survive_saving_and_are_taken_in_float64():
    method = zero_shot(centre=True)
    pixels = rows_of("source_images")
    raw = method.embed_queries(pixels)
    method.finish(walk_of(0, 1))
    centred = method.embed_queries(pixels)
    assert not torch.equal(raw, centred)
    other = zero_shot(centre=True)
    assert torch.equal(other.embed_queries(pixels), raw)  # before the fit
    other.load_state_dict(method.state_dict())
    assert torch.equal(other.embed_queries(pixels), centred)
    single = zero_shot(centre=True).float()

    def walk(stream: str):
        for part in walk_of(0, 1)(stream):
            yield replace(part, pixels=part.pixels.float())

    single.finish(walk)
    assert single.fit_result["image_mean"].dtype == torch.float64
    assert single.embed_queries(pixels.float()).dtype == torch.float32


def test_a_stream_without_samples_is_an_error():
    method = zero_shot(centre=True)
    with pytest.raises(DataError, match=r"data\.source_images: no sample to take the mean of"):
        method.finish(lambda stream: iter(()))


# Texts


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / sum(x * x for x in vector) ** 0.5


@pytest.mark.parametrize("model", [CLIP, MAP])
@pytest.mark.parametrize("pool", ["max", "mean"])
def test_prompts_equal_plain_loops(model, pool):
    prompts = ("a photo of a {}", "{} in a room")
    network = {"backbone": f"open_clip/{model}", "pool": pool}
    method = zero_shot(network, prompts=prompts)
    tower = method.texts.tower
    tokens = method.texts._tokens
    directions = []
    for name in ("office chair", "table", "cup"):  # underscores are spaces
        vectors = []
        for prompt in prompts:
            with torch.no_grad():
                vector = tower.encode_text(tokens([prompt.format(name)]))[0]
            vectors.append(unit(vector.numpy()))
        directions.append(unit(sum(vectors) / len(vectors)))
    scale = float(np.exp(tower.logit_scale.detach().numpy()))
    before = method.embed_queries(rows_of("source_images"))
    method.finish(walk_of(0, 1))
    assert torch.equal(method.embed_queries(rows_of("source_images")), before)
    for stream, embed in (
        ("source_images", method.embed_queries),
        ("target_shapes", method.embed_gallery),
    ):
        expected, logits = [], []
        for sample in rows_of(stream):
            views = trunk_features(method, sample if sample.dim() == 4 else sample[None])
            cosines = np.array([[unit(np.array(v)) @ d for d in directions] for v in views])
            pooled = cosines.max(0) if pool == "max" else cosines.sum(0) / len(cosines)
            logits.append(scale * pooled)
            expected.append(softmax(scale * pooled))
        np.testing.assert_allclose(embed(rows_of(stream)).numpy(), expected, rtol=1e-9)
        np.testing.assert_allclose(method.class_logits(rows_of(stream)).numpy(), logits, rtol=1e-9)


def test_prompts_need_a_text_tower_and_names():
    prompts = ["a {}"]
    with pytest.raises(NetworkError, match=r"method\.prompts: .*tiny has no text tower; set it to"):
        zero_shot(prompts=prompts)
    with pytest.raises(NetworkError, match=r"method\.prompts: network\.pool_tokens: .*leave it"):
        zero_shot({"backbone": f"open_clip/{CLIP}", "pool_tokens": "mean"}, prompts=prompts)
    with pytest.raises(ConfigError, match=r"method\.prompts: 'a chair' has no \{\} for the class"):
        parse_config({"method": {"name": "zero-shot", "prompts": ["a chair"]}})
    with pytest.raises(ConfigError, match=r"method\.centre: with prompts"):
        parse_config({"method": {"name": "zero-shot", "prompts": prompts, "centre": True}})
    method = zero_shot({"backbone": f"open_clip/{CLIP}"}, prompts=prompts)
    method.use_classes(())
    with pytest.raises(DataError, match=r"data\.classes: the training streams name no class"):
        method.finish(walk_of(0, 1))


def test_texts_of_a_file_of_pictures_only_are_refused(tmp_path):
    path = write_weights(CLIP, tmp_path / "pictures.pt", texts=False)
    network = {"backbone": f"open_clip/{CLIP}", "weights": str(path)}
    method = zero_shot(network)
    assert method.texts.tower is None
    with pytest.raises(NetworkError, match=r"network\.weights: .* picture tower only; name a file"):
        method.embed_texts(["a chair"])
    with pytest.raises(NetworkError, match=r"method\.prompts: network\.weights"):
        zero_shot(network, prompts=["a {}"])
    whole = write_weights(CLIP, tmp_path / "whole.pt")
    other = zero_shot({**network, "weights": str(whole)})
    other.load_state_dict(method.state_dict())
    assert other.texts.tower is None
    state = torch.load(whole, weights_only=True)
    del state["ln_final.weight"]
    torch.save(state, whole)
    with pytest.raises(NetworkError, match=r"does not fit the text tower: missing ln_final"):
        zero_shot({**network, "weights": str(whole)})


def test_runs_whose_embeddings_are_not_those_of_texts_refuse_them():
    network = {"backbone": f"open_clip/{CLIP}"}
    with pytest.raises(NetworkError, match=r"method\.prompts: .*train a run without"):
        zero_shot(network, prompts=["a {}"]).embed_texts(["a cup"])
    with pytest.raises(NetworkError, match=r"method\.centre: .*method\.centre=false"):
        zero_shot(network, centre=True).embed_texts(["a cup"])
    with pytest.raises(NetworkError, match=r"tiny has no text tower"):
        zero_shot().embed_texts(["a cup"])


def test_a_tokenizer_that_cannot_be_had_is_told(monkeypatch):
    import open_clip

    def gone(name: str):
        raise FileNotFoundError(name)

    method = zero_shot({"backbone": f"open_clip/{MAP}"})
    monkeypatch.setattr(open_clip, "get_tokenizer", gone)
    with pytest.raises(NetworkError, match=r"tokenizer of open_clip/made-map is downloaded .*CLIP"):
        method.embed_texts(["a cup"])


def test_a_text_that_is_cut_is_named(caplog):
    method = zero_shot({"backbone": f"open_clip/{CLIP}"})
    method.embed_texts(["a cup"])
    assert not caplog.records
    long = "chair " * 40
    found = method.embed_texts([long, "chair " * 60])
    assert torch.equal(found[0], found[1])
    expected = f"text '{long}': only the first 14 tokens are read"
    assert [r.getMessage() for r in caplog.records][:1] == [expected]


def test_pooling_of_tokens_differs():
    pixels = rows_of("source_images")
    backbone = {"backbone": f"open_clip/{CLIP}"}
    of_class, of_mean, own = (
        zero_shot({**backbone, "pool_tokens": how}).embed_queries(pixels)
        for how in ("class", "mean", None)
    )
    assert torch.equal(of_class, own)
    assert (of_class - of_mean).abs().max() > 0.01


# Runs


def config_of(root: Path, tmp_path: Path, network: dict[str, Any], **sections: Any) -> RunConfig:
    tree = {
        "method": "zero-shot",
        "data": {"root": str(root)},
        "network": {"tiny_width": 8, "image_size": SIDE, **network},
        **sections,
    }
    tree["training"] = {"threads": 1, "feature_store": str(tmp_path / "features")}
    return parse_config(tree)


def run(config: RunConfig, path: Path) -> RunFolder:
    folder = RunFolder(path)
    folder.claim(config, fingerprint=OpenData(config).fingerprint)
    assert train(config, folder) == 0
    return folder


@pytest.mark.parametrize("weights", ["plain", "quick", "file", "map"])
def test_a_reloaded_run_embeds_as_before(weights, benchmark, tmp_path):
    """Also where the registry says that the weights of a tag want QuickGELU."""
    model = MAP if weights == "map" else CLIP
    tags = {"file": str(write_weights(CLIP, tmp_path / "whole.pt")), "map": "none"}
    network = {
        "backbone": f"open_clip/{model}",
        "weights": tags.get(weights, weights),
        "preprocessing": "clip",
    }
    config = config_of(benchmark, tmp_path, network)
    expected = untrained(load_run(run(config, tmp_path / "run").path))
    assert isinstance(expected, ZeroShot)  # built from the weights themselves
    found = load_run(tmp_path / "run")
    pixels, texts = rows_of("source_images").float(), ["a round table", "a cup"]
    with torch.no_grad():
        assert torch.equal(found.method.embed_queries(pixels), expected.embed_queries(pixels))
        assert torch.equal(found.method.embed_texts(texts), expected.embed_texts(texts))
    source = found.data.evaluation_source(config.data.gallery)
    assert source.features is not None  # kept and shared
    _, _, vectors = extract(found.method, source, batch=32, precision="float32")
    assert np.linalg.norm(vectors - vectors[0], axis=1).max() > 0


def test_the_activation_is_that_of_the_tag():
    pixels = rows_of("source_images")
    plain, quick = (
        zero_shot({"backbone": f"open_clip/{CLIP}", "weights": tag}) for tag in ("plain", "quick")
    )
    state = [m.network.trunk.state_dict() for m in (plain, quick)]
    assert all(torch.equal(state[0][k], state[1][k]) for k in state[0])
    with torch.no_grad():
        assert (plain.embed_queries(pixels) - quick.embed_queries(pixels)).abs().max() > 1e-6
        assert (plain.embed_texts(["a cup"]) - quick.embed_texts(["a cup"])).abs().max() > 1e-6


def test_a_run_starts_from_the_trunk_of_another_and_takes_its_classes(benchmark, tmp_path):
    config = config_of(benchmark, tmp_path, {})
    first = run(config, tmp_path / "first")
    assert (
        OpenData(config).classes
        == OpenData(
            parse_config({**config.to_dict(), "method": "dann", "network": {}, "training": {}})
        ).classes
    )
    tree = config.to_dict()
    tree["training"] |= {"init_from": str(first.path), "seed": 9}
    second = load_run(run(parse_config(tree), tmp_path / "second").path)
    mine = load_run(first.path).method.state_dict()
    assert all(torch.equal(mine[k], v) for k, v in second.method.state_dict().items())
    assert json.loads((first.path / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "training",
            {"steps": 5},
            "training.steps: zero-shot trains nothing; leave training",
        ),
        ("network", {"train": "all"}, "network.train: zero-shot trains nothing, so 'all' of the"),
        ("validation", {"every": 200, "criterion": "im"}, "zero-shot has no classifier"),
    ],
)
def test_training_is_refused(key, value, words):
    with pytest.raises(ConfigError, match=words):
        parse_config({"method": "zero-shot", key: value})


def prepared(rank: int, world_size: int, stage: int | None) -> dict[str, np.ndarray]:
    """The state after the last fit under an engine."""
    method = zero_shot(centre=True).float()
    strategy = DataParallel() if stage is None else Zero(stage=stage)
    assert strategy.prepare(method, OptimizerConfig()) is method
    assert method.updates(0) == ()

    def walk(stream: str):
        for part in walk_of(rank, world_size)(stream):
            yield replace(part, pixels=part.pixels.float())

    with torch.no_grad(), strategy.whole_weights():
        method.finish(walk)
    assert strategy.state_dict() == {"optimizer": {}}
    strategy.load_state_dict(strategy.state_dict())
    return {k: v.double().numpy().copy() for k, v in strategy.weights().items()}


@pytest.mark.parametrize("stage", [None, 0, 3])
def test_engines_take_a_method_that_trains_nothing(stage):
    expected = prepared(0, 1, None)
    found = [*run_processes(prepared, 2, stage), run_alone(prepared, 0, 1, stage)]
    for state in found:
        assert state.keys() == expected.keys()
        for key, value in state.items():
            np.testing.assert_allclose(value, expected[key], rtol=1e-6, atol=1e-9)
