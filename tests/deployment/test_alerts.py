"""The alert rules: their metrics and topics exist, and Prometheus accepts them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from saltctl.cli.guide.topics import topics
from saltctl.deployment import kubernetes, systemd
from saltctl.deployment.alerts import rules
from saltctl.metrics import all_metrics
from saltctl.settings import Settings
from tests.deployment.alert_scenarios import SCENARIOS, labels_of

PROMTOOL = shutil.which("promtool")


def test_the_rules_follow_the_settings() -> None:
    """The cap is that in force."""
    assert "the cap of 64" in rules(Settings(max_n_cap=64))


def expressions() -> dict[str, str]:
    """The expression of each alert by its name."""
    found = re.findall(r"- alert: Saltctl(\w+)\n +expr: (.+)", rules(Settings()))
    assert len(found) == rules(Settings()).count("- alert: ")
    return {name: expression[1:-1].replace("''", "'") for name, expression in found}


@pytest.mark.parametrize(("name", "expression"), expressions().items())
def test_an_alert_selects_metrics_that_exist(name: str, expression: str) -> None:
    """Every metric in the rules is one that is exported, with the labels that are selected and aggregated by."""
    exported = {metric.name: metric.labels for metric in all_metrics()}
    selected = re.findall(r"(saltctl_\w+)(?:{([^}]*)})?", expression)
    assert selected
    for metric, matchers in selected:
        labels = re.findall(r'(\w+)=~?"[^"]*"', matchers)
        assert ("table" in labels, set(labels) <= set(exported[metric])) == (True, True), metric
    for by, inside in re.findall(r"by \(([^)]+)\) \(+(?:\w+\(+)*(saltctl_\w+)", expression):
        assert set(by.split(", ")) <= {*exported[inside], "instance"}, inside


def test_the_rules_are_those_of_one_registry() -> None:
    """Two registries on one Prometheus have two files, and an alert of either says which."""
    text = rules(Settings(backup_table="prod-registry"))
    assert "Rules for one registry: prod-registry." in text
    assert set(re.findall(r'table="([^"]*)"', text)) == {"prod-registry", ""}


def test_the_alerts_watch_what_the_other_files_serve() -> None:
    """No rule depends on the name of a scrape job, and the ports to scrape are those of the unit and of the pods."""
    text = rules(Settings())
    assert "job=" not in text
    (prefix,) = re.findall(r"--metrics-port=(\d+)%i", systemd.unit(Settings(), ["/usr/bin/saltctl"]))
    assert set(re.findall(r"HOST:(\d+)", text)) == {f"{prefix}1", f"{prefix}2"}
    pods = kubernetes.manifests(Settings())
    (port,) = set(re.findall(r"(?:prometheus.io/port: \"|--metrics-port=|containerPort: )(\d+)", pods))
    assert f"prometheus.io/port: {port}." in text
    assert 'prometheus.io/scrape: "true"' in pods


def test_each_alert_names_its_topic() -> None:
    """Its runbook is the command that shows a page that exists."""
    text = rules(Settings())
    runbooks = re.findall(r"runbook: saltctl help (\S+)", text)
    assert len(runbooks) == text.count("- alert: ")
    assert set(runbooks) <= set(topics())


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; Debian has it in prometheus")
def test_prometheus_accepts_the_rules(tmp_path: Path) -> None:
    """``promtool check rules`` parses the file and each expression."""
    file = tmp_path / "rules.yaml"
    file.write_text(rules(Settings()))
    done = subprocess.run([PROMTOOL or "", "check", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {rules(Settings()).count('- alert: ')} rules found" in done.stdout


def test_each_alert_has_a_scenario() -> None:
    """Each one fires in one scenario at least; promtool shows that it does."""
    fired = {alert.partition(" ")[0] for scenario in SCENARIOS for alert in scenario.alerts}
    assert fired == set(expressions())
    assert {scenario.step for scenario in SCENARIOS} == {1, 10, 30, 60}, "the steps that promtool is tested with"


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; Debian has it in prometheus")
@pytest.mark.long
@pytest.mark.parametrize(
    "step", [1, *(pytest.param(step, marks=pytest.mark.exhaustive) for step in (10, 30, 60))], ids="every {} min".format
)
def test_the_alerts_fire(step: int, tmp_path: Path) -> None:
    """``promtool test rules``: in each scenario these alerts fire and no others, and not for another registry."""
    severities = dict(re.findall(r"- alert: Saltctl(\w+)(?:\n {8}.+)+?severity: (\w+)", rules(Settings())))
    cases = [
        {
            "name": scenario.name,
            "interval": f"{step}m",
            "input_series": scenario.series(),
            "alert_rule_test": [
                {
                    "eval_time": f"{scenario.at}m",
                    "alertname": f"Saltctl{name}",
                    "exp_alerts": [
                        {"exp_labels": labels_of(alert, severity)}
                        for alert in scenario.alerts
                        if alert.partition(" ")[0] == name
                    ],
                }
                for name, severity in severities.items()
            ],
        }
        for scenario in SCENARIOS
        if scenario.step == step
    ]
    # Annotations are not compared: their texts are those of the rules.
    text = re.sub(r" +annotations:\n(?: {10}.+\n)+", "", rules(Settings()))
    (tmp_path / "rules.yaml").write_text(text)
    tests = {"rule_files": ["rules.yaml"], "evaluation_interval": f"{step}m", "tests": cases}
    (tmp_path / "test.yaml").write_text(json.dumps(tests))
    run = [PROMTOOL or "", "test", "rules", str(tmp_path / "test.yaml")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
