"""The alert rules: their metrics and topics exist, and Prometheus accepts them."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from saltctl.cli.detection.monitoring import COUNTERS
from saltctl.cli.guide.topics import topics
from saltctl.deployment.alerts import rules
from saltctl.detection.events import Counters
from saltctl.settings import Settings

PROMTOOL = shutil.which("promtool")


def test_the_rules_follow_the_settings() -> None:
    """The cap is that in force."""
    assert "the cap of 64" in rules(Settings(max_n_cap=64))


def test_alert_rules_name_metrics_that_exist() -> None:
    """Every metric in the rules is one that the service serves."""
    assert set(COUNTERS) == {f.name for f in fields(Counters)}
    served = {f"{name}_total" for name, _ in COUNTERS.values()}
    served |= {
        f"saltctl_{n}" for n in ("registry_verified", "stream_lag", "stream_pending", "back_off_seconds", "part_late")
    }
    named = set(re.findall(r"\bsaltctl_[a-z_]+", rules(Settings())))
    assert named
    assert named <= served


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
