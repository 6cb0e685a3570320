"""Where a shape came from, from a furniture library to what a search prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.training import train_run
from dataio.shards.opening import load_manifest
from tests.command import CONFIGS, call, small
from tests.dataio.datasets.furniture import entry, library, picture
from trainer.config import load_config


@pytest.mark.slow
def test_a_search_names_the_pieces_of_a_library(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = ["Chair", "Bed"] * 4
    root = library(
        tmp_path / "secret-place" / "Mine.sh3f", [entry(k, n) for k, n in enumerate(names, 1)]
    ).parent
    out = tmp_path / "packed"
    packed = call(capfd, "data", "pack", "sh3f", "--root", root, "--out", out, "--size", 32,
                  "-o", "test_share=0.5", "--json")  # fmt: skip
    assert packed.json["counts"] == {
        "image/test": 4, "image/train": 4, "shape/test": 4, "shape/train": 4,
    }  # fmt: skip
    manifest = load_manifest(out)
    assert set(manifest.origins) == {f"Mine.sh3f#Lib#piece{k}" for k in range(1, 9)}
    assert manifest.metadata["source_root"] == "secret-place"
    for file in out.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()

    run = tmp_path / "run"
    overrides = small(out, data__gallery__split="all", training__steps=2)
    train_run(load_config(CONFIGS / "source-only.yaml", overrides), run, workers=0)
    photo = Path(tmp_path / "photo.png")
    photo.write_bytes(picture(3))
    result = call(capfd, "search", run, "--image", photo, "-k", 8, "--json").json
    hits = result["answers"][0]["results"]
    origin_of = dict(zip(manifest.keys, manifest.origins, strict=True))
    assert [hit["origin"] for hit in hits] == [origin_of[hit["key"]] for hit in hits]
    assert {hit["origin"] for hit in hits} == set(manifest.origins)
    assert hits[0]["origin"] in call(capfd, "search", run, "--image", photo, "-k", 1).out
