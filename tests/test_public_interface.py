"""``import img2shape``: instant, and every public name is there and documented."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys

import numpy as np
import pytest

import img2shape
from tests.command import ROOT, small


@pytest.mark.parametrize("name", img2shape.__all__)
def test_every_name_resolves_and_is_documented(name):
    assert inspect.getdoc(getattr(img2shape, name))


def test_type_checkers_see_what_the_module_gives():
    tree = ast.parse((ROOT / "img2shape.py").read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*seen, "train"} == set(img2shape.__all__)
    places = img2shape._PLACE_OF
    assert all(places.get(name, "trainer") == module for name, module in seen.items())


def test_the_import_loads_nothing_else():
    code = (
        "import sys, img2shape\n"
        "heavy = {'torch', 'numpy', 'ray', 'trainer', 'dataio', 'evalsuite', 'cluster'}\n"
        "sys.exit(bool(heavy & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(img2shape, "trian")
    assert dir(img2shape) == img2shape.__all__


def test_a_run_from_python(benchmark, tmp_path):
    config = img2shape.load_config("source-only", small(benchmark))
    run = img2shape.train(config, tmp_path / "run")
    assert run.finished
    scores = img2shape.evaluate_run(run.path)
    loaded = img2shape.load_run(run.path)
    assert loaded.checkpoint.step == config.training.steps
    assert 0 < scores["mAP"] <= 1


def test_scores_of_anybodys_embeddings():
    vectors = np.eye(4, dtype=np.float32)
    items = img2shape.Embeddings(["a", "b", "c", "d"], ["x", "x", "y", "y"], vectors)
    assert 0 < img2shape.evaluate(items, items, protocol="mi3dor").headline["mAP"] <= 1
