"""``img2shape real`` from the download to the report, on a small library that the tests make."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cluster.cli.real import COMPARED, real_config, run_real
from tests.cluster.apt import UNPACKS, put_programs
from tests.command import ROOT, call
from tests.dataio.datasets.furniture import entry, library
from trainer.config import RunConfig, load_config
from trainer.methods import METHODS
from trainer.shipped import CONFIGS

FEW = ["training.steps=4", "training.checkpoint_every=2", "training.batch=4"]
SMALL = ["network.image_size=32", "training.threads=1", "data.num_classes=null"]


def small_config(method: str, data: Path) -> RunConfig:
    """Few steps on small pictures."""
    steps = FEW if METHODS[method].trains else []
    file = CONFIGS / "catalogue" / f"{method}.yaml"
    return load_config(file, [f"data.root={data}", *SMALL, *steps])


@pytest.fixture
def lamps(tmp_path, monkeypatch) -> Path:
    """A library of two classes; the working directory and the user's home are empty."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("cluster.cli.real.real_config", small_config)
    names = ["Desk lamp", "Oak chair"] * 4  # few enough to be rendered in this process
    pieces = [entry(k, name) for k, name in enumerate(names, 1)]
    return library(tmp_path / "Floor Lamps.sh3f", pieces)


def times(folder: Path) -> dict[Path, int]:
    """When each file was written, but for what an evaluation writes each time."""
    kept = ("checkpoints", "embeddings", "log.jsonl", "usr")
    files = (path for path in folder.rglob("*") if path.is_file())
    return {p: p.stat().st_mtime_ns for p in files if set(kept) & set(p.parts)}


@pytest.mark.slow
def test_one_call_fetches_packs_trains_and_reports_and_a_second_keeps_it(
    lamps, tmp_path, monkeypatch, capfd
):
    programs = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    put_programs(programs, apt_get=f"cp '{lamps}' furniture_1_all.deb", dpkg=UNPACKS)
    page = run_real(None)
    assert page == Path("runs/real/report.html")
    told = capfd.readouterr()
    rows = json.loads(Path("runs/real/results.json").read_text())["rows"]
    assert [row["method"] for row in rows] == list(COMPARED)
    for row in rows:
        assert f"{row['metrics']['mAP']:.3f}" in told.out
        run = Path("runs/real") / row["method"]
        described = json.loads((run / "evaluation/metrics.json").read_text())
        assert (described["n_queries"], described["n_gallery"]) == (2, 8)
    text = page.read_text()
    assert all(f">{method}<" in text for method in COMPARED)
    assert text.count("data:image/") > 10
    assert "Lamps.sh3f#" in text  # where a picture comes from

    before = times(Path())
    assert len(before) > 10
    put_programs(programs, apt_get="exit 1", dpkg="exit 1")
    run_real(None)
    assert times(Path()) == before
    assert capfd.readouterr().err.count("finished already") == len(COMPARED)
    assert json.loads(Path("runs/real/results.json").read_text())["rows"] == rows


@pytest.mark.slow
def test_a_library_has_a_data_set_and_runs_of_its_own(lamps, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")  # nothing is fetched
    monkeypatch.setattr("cluster.cli.real.COMPARED", ("source-only",))
    page = run_real(None, library=lamps)
    assert page == Path("runs/real-floor-lamps/report.html")
    assert sorted(path.name for path in Path("data").iterdir()) == ["catalogue-floor-lamps"]
    run = json.loads(Path("runs/real-floor-lamps/source-only/run.json").read_text())
    assert run["status"] == "finished"


def test_an_absent_library_or_program_is_one_line(lamps, monkeypatch, capfd):
    told = call(capfd, "real", "--library", "Lamps.sh3f").complaint
    assert "'Lamps.sh3f'" in told
    assert ".sh3f file or a folder" in told
    monkeypatch.setenv("PATH", "/nowhere")
    assert "LIBRARY=FILE_OR_FOLDER" in call(capfd, "real").complaint
    assert not list(Path().iterdir())


@pytest.mark.parametrize("method", COMPARED)
def test_the_shipped_descriptions_are_trained(method):
    config = real_config(method, Path("data/odd: name"))
    assert (config.method_name, config.data.root) == (method, "data/odd: name")
    assert config.data.num_classes is None
    assert (config.data.queries.split, config.data.gallery.split) == ("test", "all")


@pytest.mark.parametrize(
    ("given", "command"),
    [
        (["real"], "img2shape real"),
        (["real", "LIBRARY=my lamps.sh3f"], 'img2shape real --library "my lamps.sh3f"'),
        (["demo"], "img2shape demo"),
        (["quick"], "img2shape demo --quick"),
    ],
)
def test_make_calls_the_command(given, command):
    # Under `make test` this make is an inner one, which would name the folder it enters.
    shown = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.rstrip().splitlines()[-1].rstrip().endswith(command)
