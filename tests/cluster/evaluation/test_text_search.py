"""``img2shape search --text`` on a zero-shot run of a small CLIP, as a user calls it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cluster.training import train_run
from tests.command import CONFIGS, call, small
from tests.open_clip_models import CLIP, made_models, write_weights
from trainer.config import load_config, parse_config
from trainer.extraction.trained_run import extract, load_run

TEXTS = ("a round wooden table", "an office chair [red]")


@pytest.fixture(scope="module")
def trained(benchmark, tmp_path_factory) -> Path:
    """A run whose weights' file is gone."""
    folder = tmp_path_factory.mktemp("text-search")
    made_models(folder)
    weights = write_weights(CLIP, folder / "whole.pt")
    tree = {
        "method": "zero-shot",
        "data": {"root": str(benchmark)},
        "network": {
            "backbone": f"open_clip/{CLIP}",
            "weights": str(weights),
            "preprocessing": "clip",
        },
        "training": {"threads": 1},
        "evaluation": {"metric": "cosine"},
    }
    train_run(parse_config(tree), folder / "run", workers=0)
    weights.unlink()
    return folder / "run"


def test_texts_find_the_nearest_shapes(trained, tmp_path, capfd):
    options = [part for text in TEXTS for part in ("--text", text)]
    page = tmp_path / "page.html"
    done = call(capfd, "search", trained, *options, "-k", 4, "--html", page, "--json")
    result = done.json
    run = load_run(trained)
    source = run.data.evaluation_source(run.config.data.gallery)
    keys, labels, shapes = extract(run.method, source, batch=32, precision="float32")
    with torch.no_grad():
        asked = run.method.embed_texts(TEXTS).numpy()
    assert [answer["text"] for answer in result["answers"]] == list(TEXTS)
    for answer, text in zip(result["answers"], asked, strict=True):
        cosines = [
            float(np.dot(text, shape) / np.linalg.norm(text) / np.linalg.norm(shape))
            for shape in shapes
        ]
        nearest = np.argsort([-c for c in cosines], kind="stable")[:4]
        hits = answer["results"]
        assert [hit["key"] for hit in hits] == [keys[i] for i in nearest]
        assert [hit["label"] for hit in hits] == [labels[i] for i in nearest]
        distances = [hit["distance"] for hit in hits]
        np.testing.assert_allclose(distances, 1 - np.array(cosines)[nearest], atol=1e-5)
    written = page.read_text()
    assert TEXTS[0] in written
    assert written.count("<img") == 8  # shapes have pictures, texts have none
    shown = call(capfd, "search", trained, "--text", TEXTS[1], "-k", 2)
    assert shown.code == 0
    assert TEXTS[1] in shown.out


def test_either_pictures_or_texts(trained, capfd):
    told = "give either pictures (--image FILE) or words (--text TEXT)"
    assert told in call(capfd, "search", trained).complaint
    both = call(capfd, "search", trained, "--image", "a.jpg", "--text", "a cup")
    assert told in both.complaint


def test_runs_without_texts_say_why(benchmark, tmp_path, capfd):
    train_run(load_config(CONFIGS / "source-only.yaml", small(benchmark)), tmp_path, workers=0)
    told = call(capfd, "search", tmp_path, "--text", "a cup").complaint
    assert told.startswith("source-only embeds pictures and shapes where no text tower embeds")
    assert "zero-shot" in told
