"""The files of k8s/monitoring: what they name exists, and `img2shape dashboards` copies them."""

from __future__ import annotations

import fnmatch
import json
import re
from pathlib import Path

import pytest
import yaml

from cluster.monitoring.exported_metrics import METRICS
from cluster.monitoring.shipped import DASHBOARDS, FOLDER, with_job
from tests.cluster.promql import named
from tests.cluster.shipped_monitoring import (
    ALERTS,
    BOARDS,
    RULES_TEXT,
    condition,
    expressions,
    panels,
)
from tests.command import ROOT, call

COPIES = ("run.json", "sweep.json", "alerts.yaml")  # what the command writes
FILES = dict(zip(COPIES, (*DASHBOARDS.values(), "alerts.yaml"), strict=True))
TEXTS = {file: (FOLDER / file).read_text() for file in FILES.values()}
PAGE = (ROOT / "docs/guides/monitoring.md").read_text()
HISTOGRAM_SERIES = ("_bucket", "_sum", "_count")
EXPORTED = {
    f"{entry.name}{suffix}"
    for entry in METRICS
    for suffix in (HISTOGRAM_SERIES if entry.kind == "histogram" else ("",))
}


def metrics_of(text: str) -> set[str]:
    """Every word of a file that is or could be one of our metrics, wherever it stands."""
    return set(re.findall(r"\bimg2shape_\w+", text))


@pytest.mark.parametrize("file", TEXTS)
def test_every_metric_that_a_file_names_is_exported(file):
    assert metrics_of(TEXTS[file])
    assert metrics_of(TEXTS[file]) - EXPORTED == set()


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("img2shape-runs.json", "img2shape_loss_term", "img2shape_loss_terms"),
        ("img2shape-runs.json", "img2shape_samples_total", "img2shape_samples"),
        ("img2shape-sweeps.json", "img2shape_sweep_cells", "img2shape_sweep_cells_total"),
        ("alerts.yaml", "img2shape_step_seconds_bucket", "img2shape_step_seconds"),
        ("alerts.yaml", "img2shape_bad_samples", "img2shape_bad_samples_sum"),
    ],
)
def test_a_wrong_name_is_found(file, right, wrong):
    planted = re.sub(rf"\b{right}\b", wrong, TEXTS[file], count=1)
    assert planted != TEXTS[file]
    assert metrics_of(planted) - EXPORTED == {wrong}


def test_every_exported_series_is_used():
    used = set().union(*map(metrics_of, TEXTS.values()))
    assert EXPORTED - used == set()


def test_the_command_copies_the_files(tmp_path, capfd):
    told = call(capfd, "dashboards", "--out", tmp_path / "a", "--json").json
    assert told == {"files": [str(tmp_path / "a" / name) for name in COPIES]}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.json").write_text("{}")
    assert call(capfd, "dashboards", "--out", tmp_path / "b").code == 0
    assert {p.name for p in (tmp_path / "b").iterdir()} == {*COPIES, "mine.json"}
    for copy, file in FILES.items():
        for folder in ("a", "b"):
            assert (tmp_path / folder / copy).read_text() == TEXTS[file], file


@pytest.fixture
def filled(tmp_path, capfd) -> Path:
    """A folder of copies with a data source and a job filled in."""
    given = ("--data-source", 'My "Prometheus"', "--job", "trainings")
    assert call(capfd, "dashboards", "--out", tmp_path, *given).code == 0
    return tmp_path


@pytest.mark.parametrize("name", BOARDS)
def test_the_command_fills_a_dashboard_in(name, filled):
    board = json.loads((filled / f"{name}.json").read_text())
    source, owner = board["templating"]["list"]
    assert source["current"] == {
        "selected": True,
        "text": 'My "Prometheus"',
        "value": 'My "Prometheus"',
    }
    assert 'job="trainings"' in owner["query"]["query"]
    for panel in panels(board):
        for _, expression in expressions(panel):
            chosen = [labels for _, labels in named(expression).selected]
            assert all(("job", "trainings") in labels for labels in chosen), panel["title"]
    source["current"] = {}
    assert without_job(json.dumps(board)) == json.dumps(BOARDS[name])


def test_the_command_fills_the_alerts_in(filled):
    text = (filled / "alerts.yaml").read_text()
    assert without_job(text) == RULES_TEXT  # comments stay too
    for group in yaml.safe_load(text)["groups"]:
        for rule in group["rules"]:
            shipped = ALERTS[rule["alert"]]
            assert {**rule, "expr": ""} == {**shipped, "expr": ""}
            selectors = re.findall(r'"img2shape_[^"]*"|img2shape_', shipped["expr"])
            assert rule["expr"].count('job="trainings"') == len(selectors), rule["alert"]


def without_job(text: str) -> str:
    """A filled text as it was before, for JSON and for YAML."""
    return re.sub(r'\{job=\\?"trainings\\?"\}|job=\\?"trainings\\?", ', "", text)


@pytest.mark.parametrize(
    ("expression", "restricted"),
    [
        ("img2shape_loss", 'img2shape_loss{job="j"}'),
        ('img2shape_loss {run="a"} > 1', 'img2shape_loss{job="j", run="a"} > 1'),
        ('rate(img2shape_loss{run="a"}[5m])', 'rate(img2shape_loss{job="j", run="a"}[5m])'),
        (
            'max({__name__=~"img2shape_a|img2shape_b"}) > img2shape_c',
            'max({job="j", __name__=~"img2shape_a|img2shape_b"}) > img2shape_c{job="j"}',
        ),
        ("label_values(img2shape_loss, run)", 'label_values(img2shape_loss{job="j"}, run)'),
        ("sum by (run) (up) + ray_img2shape_loss", "sum by (run) (up) + ray_img2shape_loss"),
    ],
)
def test_a_job_goes_into_every_selector_of_our_metrics(expression, restricted):
    assert with_job(expression, "j") == restricted


@pytest.mark.parametrize("option", ["--data-source", "--job"])
@pytest.mark.parametrize("value", ["", " ", "two\nlines"])
def test_what_is_no_name_is_one_line(option, value, tmp_path, capfd):
    complaint = call(capfd, "dashboards", "--out", tmp_path / "d", option, value).complaint
    assert complaint.startswith(f"{option} ")
    assert not (tmp_path / "d").exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    complaint = call(capfd, "dashboards", "--out", tmp_path / "file" / "d").complaint
    assert str(tmp_path / "file") in complaint


def test_the_files_are_package_data():
    """So that an installed wheel has them beside the packages, where a checkout has them."""
    project = (ROOT / "pyproject.toml").read_text()
    (packages,) = re.findall(r"packages\.find\]\ninclude = \[(.*)\]", project)
    assert '"k8s.monitoring"' in packages
    (patterns,) = re.findall(r'^"k8s\.monitoring" = \[(.*)\]$', project, re.M)
    for file in TEXTS:
        assert any(fnmatch.fnmatch(file, p) for p in re.findall(r'"(.*?)"', patterns)), file
    assert FOLDER == ROOT / "k8s" / "monitoring"


def test_dashboards_are_written_as_the_readme_says():
    """With sorted keys and two spaces, so that a change of one panel is a change of few lines."""
    for file in DASHBOARDS.values():
        board = json.loads(TEXTS[file])
        text = json.dumps(board, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        assert TEXTS[file] == text, "see k8s/monitoring/README.md, Edit"


def rows(name: str) -> list[tuple[str, ...]]:
    """The cells of a table of docs/guides/monitoring.md, without its head."""
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", PAGE, re.S)
    assert found, f"no table <!-- {name} --> ... <!-- end -->"
    lines = [line.strip("| ").split(" | ") for line in found[1].splitlines()]
    return [tuple(cell.replace("&lt;", "<") for cell in line) for line in lines[2:]]


@pytest.mark.parametrize("name", BOARDS)
def test_the_page_has_every_panel(name):
    expected, row = [], ""
    for panel in BOARDS[name]["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        else:
            expected.append((row, panel["title"], panel["description"]))
    assert rows(f"panels-{name}") == expected


def test_the_page_has_every_alert():
    def cells(name: str) -> tuple[str, ...]:
        rule = ALERTS[name]
        texts = rule["annotations"]
        what = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: found[1].upper(), texts["summary"])
        fires = f"{what}: {condition(rule)[1]}"
        return name, rule["labels"]["severity"], fires, rule["for"], texts["runbook"]

    assert rows("alerts") == [cells(name) for name in ALERTS]


def test_the_page_has_every_metric():
    assert rows("metrics") == [
        (f"`{entry.name}`", entry.kind, ", ".join(entry.label_names), entry.help)
        for entry in METRICS
    ]


def test_the_overlay_holds_the_same():
    overlay = (ROOT / "k8s/overlays/monitoring/monitoring.yaml").read_text()
    objects = {manifest["kind"]: manifest for manifest in yaml.safe_load_all(overlay)}
    assert objects["PrometheusRule"]["spec"] == yaml.safe_load(RULES_TEXT)
    boards = {name: json.loads(text) for name, text in objects["ConfigMap"]["data"].items()}
    assert boards == {
        f"img2shape-{name}.json": json.loads(TEXTS[file]) for name, file in DASHBOARDS.items()
    }
