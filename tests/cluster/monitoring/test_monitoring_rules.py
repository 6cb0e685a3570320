"""Every alert fires on its fault at its minute, and is silent on a healthy run: by promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.alerts import ALERTS, alert_rules, rule_groups
from tests.cluster.alert_cases import CASES, QUIET, Case, Series, written

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus"
)
BY_NAME = {alert.name: alert for alert in ALERTS}
FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def promtool(*args: object) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL
    return subprocess.run([PROMTOOL, *map(str, args)], capture_output=True, text=True)


def rule_test(folder: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """``promtool test rules`` on the rules as they are written to a file."""
    (folder / "alerts.yaml").write_text(alert_rules())
    content = {"rule_files": ["alerts.yaml"], "evaluation_interval": "1m", "tests": tests}
    (folder / "tests.yaml").write_text(yaml.safe_dump(content, width=10_000))
    return promtool("test", "rules", folder / "tests.yaml")


def input_series(series: Series) -> list[dict[str, str]]:
    return [{"series": name, "values": written(value)} for name, value in series.items()]


def firing(minute: int, *names: str) -> dict[str, Any]:
    """Exactly the alerts ``names`` fire at ``minute``, once each."""
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in names]
    return {"expr": FIRING, "eval_time": f"{minute}m", "exp_samples": expected}


def filled(template: str, case: Case) -> str:
    """An annotation as Prometheus writes it for this case."""
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: case.labels[found[1]], template)
    return re.sub(r"{{ \$value[^}]*}}", case.shown, text)


def case_test(name: str, case: Case) -> dict[str, Any]:
    alert = BY_NAME[name]
    annotations = {key: filled(t, case) for key, t in alert.rule()["annotations"].items()}
    raised = {
        "exp_labels": {**case.labels, "severity": alert.severity},
        "exp_annotations": annotations,
    }
    fired = [firing(case.fires_at - 1), firing(case.fires_at, name)]
    return {
        "interval": "1m",
        "input_series": input_series(case.series),
        "promql_expr_test": fired + [firing(case.over_at)] * (case.over_at > 0),
        "alert_rule_test": [
            {"eval_time": f"{case.fires_at}m", "alertname": name, "exp_alerts": [raised]}
        ],
    }


def test_every_alert_has_a_case():
    assert set(CASES) == set(BY_NAME)
    assert len(ALERTS) == len(BY_NAME)


@needs_promtool
def test_the_rule_file_is_valid(tmp_path):
    (tmp_path / "alerts.yaml").write_text(alert_rules())
    checked = promtool("check", "rules", "--lint-fatal", tmp_path / "alerts.yaml")
    assert checked.returncode == 0, checked.stderr
    assert f"{len(ALERTS)} rules found" in checked.stdout


@needs_promtool
@pytest.mark.parametrize("name", CASES)
def test_it_fires_when_it_should_and_alone(name, tmp_path):
    told = rule_test(tmp_path, [case_test(name, CASES[name])])
    assert told.returncode == 0, told.stdout + told.stderr


@needs_promtool
@pytest.mark.parametrize("name", QUIET)
def test_nothing_fires(name, tmp_path):
    series, minutes = QUIET[name]
    test = {
        "interval": "1m",
        "input_series": input_series(series),
        "promql_expr_test": [firing(minute) for minute in minutes],
    }
    told = rule_test(tmp_path, [test])
    assert told.returncode == 0, told.stdout + told.stderr


@needs_promtool
def test_the_tests_can_fail(tmp_path):
    case = CASES["Img2ShapeRankSkew"]
    late = case_test("Img2ShapeRankSkew", Case(case.planted, case.fires_at + 1, case.shown))
    told = rule_test(tmp_path, [late])
    assert told.returncode == 1
    assert "Img2ShapeRankSkew" in told.stdout + told.stderr


def test_alerts_say_what_to_do():
    for alert in ALERTS:
        assert alert.name.startswith("Img2Shape")
        assert alert.runbook.endswith(".")
        for text in (alert.summary, alert.description, alert.runbook):
            assert text, alert.name
            assert "\n" not in text, alert.name


def test_the_file_holds_the_groups_and_is_the_same_each_time():
    assert yaml.safe_load(alert_rules()) == {"groups": rule_groups()}
    assert alert_rules() == alert_rules()
    assert [r["alert"] for g in rule_groups() for r in g["rules"]] == list(BY_NAME)
