"""Runs whose images and shapes go into different trunks, as a user handles them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cluster.evaluation.extraction import configured_stream, embed
from cluster.evaluation.pictures import embed_pictures
from cluster.training import train_run
from dataio.loading import apply
from dataio.loading.batch import Stream
from dataio.loading.sources import SampleTable
from evalsuite.search.exact import FlatIndex
from tests.command import CONFIGS, call, small
from trainer.config import load_config
from trainer.extraction.trained_run import TrainedRun, load_run, untrained
from trainer.networks.torchvision_shim import import_torchvision

import_torchvision()
pytest.importorskip("timm")

SIZES = {"image": 32, "shape": 48}
TRUNKS = (
    "network.shape_backbone=timm/test_vit",
    "network.image_preprocessing={size: 32, crop: 0.9}",
    "network.shape_preprocessing={like: half, size: 48}",
)


def settings(benchmark: Path, method: str) -> list[str]:
    """Two steps."""
    batch = 12 if method == "dca" else 10
    options = {"training__steps": 2, "training__checkpoint_every": 1, "training__batch": batch}
    balanced = ["method.classes_per_batch=3", "method.samples_per_class=4"]
    data = {
        name: f"{{stream: {stream}, split: {split}, root: {benchmark}}}"
        for name, (stream, split) in {
            "source_images": ("image", "train"),
            "source_shapes": ("shape", "train"),
            **({} if method == "dca" else {"target_images": ("sketch", "train")}),
            **({} if method == "dca" else {"target_shapes": ("shape", "train")}),
            "queries": ("image", "test"),
            "gallery": ("shape", "test"),
        }.items()
    }
    return [
        *small(benchmark, **options),
        *(balanced if method == "dca" else ["data.classes=null", "data.restrict=false"]),
        *(f"data.{name}={value}" for name, value in data.items()),
        *TRUNKS,
    ]


@pytest.fixture(scope="module", params=["daisnet", "dca"])
def trained(request, benchmark, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("two-trunks") / request.param
    config = load_config(CONFIGS / f"{request.param}.yaml", settings(benchmark, request.param))
    train_run(config, out, workers=0)
    return out


@pytest.mark.slow
def test_a_run_with_two_trunks_is_trained_evaluated_and_searched(trained, tmp_path, capfd):
    run = load_run(trained)
    facts = run.checkpoint.description
    kept = {key: facts[key] for key in ("preprocessing", "shape_preprocessing")}
    assert (kept["preprocessing"]["size"], kept["preprocessing"]["crop"]) == (32, 0.9)
    assert (kept["shape_preprocessing"]["size"], kept["shape_preprocessing"]["mean"]) == (
        48,
        [0.5] * 3,
    )

    streams = [configured_stream(run, side) for side in ("queries", "gallery")]
    queries, gallery = (stored.read() for stored in embed(run, trained / "embeddings", streams))
    assert queries.vectors.shape[1] == gallery.vectors.shape[1] == 16
    assert np.isfinite(queries.vectors).all()
    assert_embedded_as_by_hand(run, queries.vectors, gallery.vectors)

    done = call(capfd, "eval", trained, "--workers", 0, "--json")
    assert 0 <= done.json["FT"] <= 1

    picture = tmp_path / "grey.png"
    Image.fromarray(np.full((80, 70, 3), 90, np.uint8)).save(picture)
    asked = embed_pictures(run, [picture])
    space = {"features": run.config.evaluation.features, "metric": run.config.evaluation.metric}
    expected = FlatIndex(gallery, **space).search(asked, 5).indices[0]
    done = call(capfd, "search", trained, "--image", picture, "-k", 5, "--json")
    hits = done.json["answers"][0]["results"]
    assert [hit["key"] for hit in hits] == [gallery.keys[i] for i in expected]


def assert_embedded_as_by_hand(run: TrainedRun, queries: np.ndarray, gallery: np.ndarray) -> None:
    """Each modality's pixels are those of its own trunk: size, mean and crop."""
    method = run.method.eval()
    for side, found in (("queries", queries), ("gallery", gallery)):
        modality = "image" if side == "queries" else "shape"
        selection = getattr(run.config.data, side)
        source = run.data.evaluation_source(selection, pictures=True)
        assert source.image_size == SIZES[modality]
        stream = Stream(source, SampleTable.of(source), labels=None)
        positions = np.arange(2)
        pixels, _ = stream.reader.read(positions, stream.all_views(positions))
        expected = run.config.network.of(modality).resolved_preprocessing
        x = apply(pixels.flatten(0, 1), None, size=SIZES[modality], preprocessing=expected)
        with torch.inference_mode():
            x = x.unflatten(0, (2, -1)).float()
            made = method.embed_queries(x[:, 0]) if side == "queries" else method.embed_gallery(x)
        np.testing.assert_allclose(found[:2], made.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_both_trunks_learn(trained):
    run = load_run(trained)
    first = untrained(run)
    moved = {
        name.partition(".")[0]
        for name, p in first.named_parameters()
        if ".trunk." in name and not torch.equal(p, run.method.get_parameter(name))
    }
    assert len(moved) == 2


def test_commands_show_both_trunks(benchmark, capfd):
    config, options = CONFIGS / "daisnet.yaml", settings(benchmark, "daisnet")
    found = call(capfd, "model", config, *options, "--json").json["trunks"]
    plan = call(capfd, "data", "explain", config, *options, "--json").json["trunks"]
    for trunks in (found, plan):
        assert [(t["of"], t["backbone"], t["image_size"]) for t in trunks] == [
            ("images", "tiny", 32),
            ("shapes", "timm/test_vit", 48),
        ]
    text = call(capfd, "data", "explain", config, *options).out
    assert "trunk of images: tiny, weights none, trained: all; 32 pixels" in text
    assert "trunk of shapes: timm/test_vit, weights none, trained: all; 48 pixels" in text
    same = [option for option in options if option not in TRUNKS]
    assert "trunk of shapes: tiny" in call(capfd, "data", "explain", config, *same).out
    one = call(capfd, "model", CONFIGS / "astn.yaml", TRUNKS[0])
    assert "network.shape_backbone: astn has one trunk" in one.complaint
