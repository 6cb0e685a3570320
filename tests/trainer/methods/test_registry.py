"""Methods of other distributions, and options whose default alone is overridden."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.command import ROOT, call, small
from trainer.fields import describe_fields
from trainer.methods import METHODS, MethodConfig
from trainer.methods.registry import FILES, Methods
from trainer.methods.two_branch import TwoBranchConfig

METHOD = '''"""LENGTH: embeddings have the same mean length in both domains."""

import img2shape


class Length(img2shape.TwoDomains):
    name = "length"
    paper = "unpublished"
    Config = img2shape.MethodConfig

    def align(self, losses, pair, now):
        photos, shapes = (img2shape.global_mean(f.norm(dim=1)) for f in (pair.f_s, pair.f_t))
        losses.add("length", (photos - shapes).square(), weight=0.1)


class Nameless(img2shape.TwoDomains):
    pass
'''
POINTS = """[img2shape.methods]
length = length_method:Length
astn = length_method:Length
other-name = length_method:Length
nameless = length_method:Nameless
gone = length_method_gone:Gone
"""


@pytest.fixture
def distribution(tmp_path, monkeypatch) -> Path:
    """A folder of installed packages that holds one distribution with a method."""
    (tmp_path / "length_method.py").write_text(METHOD)
    info = tmp_path / "length_method-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: length-method\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("length_method", None)


def test_a_method_of_another_distribution_is_found(distribution, caplog):
    with caplog.at_level(logging.WARNING):
        found = Methods()
        assert found["length"].paper == "unpublished"
    assert list(found) == [*METHODS, "length"]
    assert found.origin("length") == "length-method 1.2"
    assert found["astn"] is METHODS["astn"]
    assert found.origin("astn") is None
    told = "\n".join(record.getMessage() for record in caplog.records)
    for reason in (
        "method 'astn' of length-method 1.2 is left out: ValueError: length_method:Length calls "
        "itself 'length'; give both the same name",
        "method 'other-name' of length-method 1.2 is left out",
        "length_method:Nameless does not set name, paper",
        "ModuleNotFoundError: No module named 'length_method_gone'",
    ):
        assert reason in told


@pytest.mark.slow
def test_it_trains_and_is_listed_and_may_be_imported_first(distribution, benchmark, tmp_path):
    (tmp_path / "run.yaml").write_text(f"method: length\ndata: {{root: {benchmark}}}\n")
    script = (
        "import sys, length_method\n"
        "from cluster.cli.app import main\n"
        "sys.argv[0] = 'img2shape'\n"
        "main()\n"
    )

    def command(*args: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script, *map(str, args)],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": f"{distribution}:{ROOT}", "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
        )

    run = command("train", tmp_path / "run.yaml", *small(benchmark), "--out", tmp_path / "run")
    assert run.returncode == 0, run.stderr
    shown = command("methods")
    assert "length (from length-method 1.2)" in shown.stdout
    assert "method 'gone' of length-method 1.2 is left out" in shown.stderr
    assert "from: length-method 1.2" in command("methods", "length").stdout


def test_shipped_methods_say_that_they_are(capfd):
    listed = call(capfd, "methods", "--json").json["methods"]
    assert all(method["origin"] is None for method in listed)
    assert len(listed) == len(FILES)


class Larger(TwoBranchConfig):
    samples_per_class: int = 8
    classes_per_batch: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]


class Largest(Larger):
    samples_per_class: int = 16


@pytest.mark.parametrize("model", [Larger, Largest])
def test_an_overridden_default_keeps_description_and_bounds(model):
    fields = {f["name"]: f for f in describe_fields(model, common=MethodConfig)}
    base = {f["name"]: f for f in describe_fields(TwoBranchConfig, common=MethodConfig)}
    for name in ("description", "type"):
        assert fields["samples_per_class"][name] == base["samples_per_class"][name]
    assert fields["samples_per_class"]["default"] == model().samples_per_class
    assert fields["classes_per_batch"]["description"]
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        model(samples_per_class=1)
    assert model(classes_per_batch=None).classes_per_batch is None  # another type, other bounds
