"""Prometheus alerting rules for the metrics of the service and of scheduled jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable

from saltctl.deployment import kubernetes, systemd
from saltctl.deployment.alert_rules import Alert, Series, capacity, detection, expected, promise, staleness
from saltctl.settings import Settings

_HEAD = f"""\
# Rules for one registry: @TABLE@. Each other one needs a file of its own, by the same command in its
# context. The expressions select its metrics by the label table, so the scrape jobs may have any name.
#
# Prometheus must scrape each instance of the service:
#   - job_name: saltctl
#     static_configs:
#       - targets: ["HOST:{systemd.PORT_PREFIX}1", "HOST:{systemd.PORT_PREFIX}2"]
# These are saltctl-service@1 and @2 of `saltctl service emit systemd`. The pods of `saltctl service emit kubernetes`
# have the annotations prometheus.io/scrape and prometheus.io/port: {kubernetes.METRICS_PORT}.
# The metrics of jobs are the files of --metrics-file, by the textfile collector of the node exporter.
#
# `saltctl help metrics` explains the metrics. Thresholds fit jobs that run as in the README's crontab, and scrapes
# each minute or more often: if yours run less often, change the number after > and the duration after for.
"""
_ABOUT = {
    "promise": "Readers may miss messages, or the proof that they do not has failed.",
    "detection": "The service, and the heat stream.",
    "capacity": """\
Limits. The throttling of tables by other clients: `saltctl throttle alarms create`. The memory of Redis: a
check of `saltctl doctor --format prometheus`, if its output is collected.""",
    "staleness": "Jobs that have run once: a job without a metrics file is silent here. 900 seconds are 15 minutes.",
    "expected": """\
What the README's crontab runs, and the service. DELETE the alerts of what you do not run: they fire for ever.
CronJobs of Kubernetes write no metrics file: watch kube_cronjob_status_last_successful_time there.""",
}


def rules(settings: Settings) -> str:
    """Return a file of rules for the registry of these settings, each with a command that helps and a ``runbook``."""
    of = Series(settings.backup_table)
    groups = {
        "promise": promise(of),
        "detection": detection(of),
        "capacity": capacity(of, settings),
        "staleness": staleness(of),
        "expected": expected(of),
    }
    text = _HEAD.replace("@TABLE@", settings.backup_table) + "groups:\n"
    for name, alerts in groups.items():
        text += "".join(f"  # {line}\n" for line in _ABOUT[name].split("\n")) + f"  - name: saltctl-{name}\n"
        text += "    rules:\n" + _formatted(alerts)
    return text


def _formatted(alerts: Iterable[Alert]) -> str:
    """Return the rules of a group. A JSON string is one of YAML, too."""
    text = ""
    for alert in alerts:
        text += (
            f"      - alert: {alert.name}\n        expr: {_quoted(alert.expression)}\n"
            f"        for: {alert.lasting}\n        labels:\n          severity: {alert.severity}\n"
            f"        annotations:\n          summary: {json.dumps(alert.summary)}\n"
            f"          command: {json.dumps(alert.command)}\n"
            f"          runbook: saltctl help {alert.topic}\n"
        )
    return text


def _quoted(expression: str) -> str:
    """Return an expression as a string of YAML in which its own quotes need no escape."""
    return "'" + expression.replace("'", "''") + "'"
