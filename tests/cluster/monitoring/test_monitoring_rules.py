"""Every alert fires on its fault at its minute, and is silent on a healthy run: by promtool."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.monitoring.shipped import rule_groups, with_job
from tests.cluster.alert_cases import CASES, QUIET, Case, Series, written
from tests.cluster.shipped_monitoring import ALERTS, RULES_TEXT, condition

PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus"
)
FIRING = 'count by (alertname) (ALERTS{alertstate="firing"})'


def promtool(*args: object) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL
    return subprocess.run([PROMTOOL, *map(str, args)], capture_output=True, text=True)


def rule_test(
    folder: Path, tests: list[dict[str, Any]], *, rules: str = RULES_TEXT
) -> subprocess.CompletedProcess[str]:
    """``promtool test rules`` on the text of a rule file."""
    (folder / "alerts.yaml").write_text(rules)
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
    rule = ALERTS[name]
    annotations = {key: filled(t, case) for key, t in rule["annotations"].items()}
    raised = {
        "exp_labels": {**case.labels, "severity": rule["labels"]["severity"]},
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
    assert set(CASES) == set(ALERTS)
    assert len(ALERTS) == sum(len(group["rules"]) for group in rule_groups())


@needs_promtool
@pytest.mark.parametrize("rules", [RULES_TEXT, with_job(RULES_TEXT, 'a "job"')])
def test_the_rule_file_is_valid(rules, tmp_path):
    (tmp_path / "alerts.yaml").write_text(rules)
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


# Among them the selectors of all kinds: with labels, without, and of several metrics.
@needs_promtool
@pytest.mark.parametrize("name", ["Img2ShapeNoProgress", "Img2ShapeExporterGone"])
def test_rules_of_one_job_look_at_that_job_alone(name, tmp_path):
    case = CASES[name]
    told = rule_test(tmp_path, [case_test(name, case)], rules=with_job(RULES_TEXT, "img2shape"))
    assert told.returncode == 0, told.stdout + told.stderr
    silent = {
        "interval": "1m",
        "input_series": input_series(case.series),
        "promql_expr_test": [firing(case.fires_at)],
    }
    told = rule_test(tmp_path, [silent], rules=with_job(RULES_TEXT, "another"))
    assert told.returncode == 0, told.stdout + told.stderr


def test_alerts_say_what_to_do():
    for name, rule in ALERTS.items():
        assert name.startswith("Img2Shape")
        assert rule["labels"]["severity"] in ("critical", "warning"), name
        texts = rule["annotations"]
        assert set(texts) == {"summary", "description", "runbook"}, name
        assert texts["runbook"].endswith(".")
        for text in texts.values():
            assert text, name
            assert "\n" not in text, name
        assert condition(rule)[0], name
