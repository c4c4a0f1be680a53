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

PROMTOOL = shutil.which("promtool")


def test_the_rules_follow_the_settings() -> None:
    """The cap is that in force."""
    assert "the cap of 64" in rules(Settings(max_n_cap=64))


def test_alert_rules_name_metrics_that_exist() -> None:
    """Every metric in the rules is one that the service serves."""
    served = {metric.name for metric in all_metrics()}
    named = set(re.findall(r"\bsaltctl_[a-z_]+", rules(Settings())))
    assert named
    assert named <= served


def test_both_sides_of_and_have_the_same_labels() -> None:
    """``and`` keeps only what has the same labels on both sides: aggregates have none."""
    expressions = [json.loads(line) for line in re.findall(r"expr: (.+)", rules(Settings()))]
    sides = [side for expression in expressions if " and " in expression for side in expression.split(" and ")]
    assert sides
    for side in sides:
        assert re.match(r"(min|max|sum)\(", side), side


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


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed; Debian has it in prometheus")
def test_the_alerts_fire(tmp_path: Path) -> None:
    """``promtool test rules``: a lag that grows, seen by two instances; and no instance at all."""
    growing = [
        {"series": f'{name}{{instance="{instance}", job="any"}}', "values": values}
        for instance in ("a", "b")
        for name, values in (("saltctl_stream_lag", "9000+1000x20"), ("saltctl_registry_verified", "1x20"))
    ]
    expected = {"SaltctlStreamLagging": (growing, "warning"), "SaltctlServiceDown": ([], "critical")}
    cases = [
        {
            "interval": "1m",
            "input_series": series,
            "alert_rule_test": [
                {
                    "eval_time": "15m",
                    "alertname": name,
                    "exp_alerts": [{"exp_labels": {"severity": severity}}] if name == firing else [],
                }
                for name in expected
            ],
        }
        for firing, (series, severity) in expected.items()
    ]
    # Annotations are not compared: their texts are those of the rules.
    text = re.sub(r" +annotations:\n(?: {10}.+\n)+", "", rules(Settings()))
    (tmp_path / "rules.yaml").write_text(text)
    (tmp_path / "test.yaml").write_text(json.dumps({"rule_files": ["rules.yaml"], "tests": cases}))
    run = [PROMTOOL or "", "test", "rules", str(tmp_path / "test.yaml")]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
