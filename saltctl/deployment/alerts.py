"""Prometheus alerting rules for the metrics of ``service run --metrics-port``."""

from __future__ import annotations

import json

from saltctl.deployment import kubernetes, systemd
from saltctl.settings import Settings

_SCRAPING = f"""\
# Prometheus must scrape each instance. The rules name metrics only, so the scrape job may have any name:
#   - job_name: saltctl
#     static_configs:
#       - targets: ["HOST:{systemd.PORT_PREFIX}1", "HOST:{systemd.PORT_PREFIX}2"]
# These are saltctl-service@1 and @2 of `saltctl service emit systemd`. The pods of `saltctl service emit kubernetes`
# have the annotations prometheus.io/scrape and prometheus.io/port: {kubernetes.METRICS_PORT}.
"""


def rules(settings: Settings) -> str:
    """Return a file of rules, each with a ``runbook``.

    Both sides of ``and`` are aggregates: it keeps only what has the same labels on both sides.
    """
    alerts = (
        ("SaltctlServiceDown", "absent(saltctl_registry_verified)", "1m", "critical",
         "Prometheus has no metrics of a hot partition service: if none runs, hot conversations are not detected",
         "saltctl service status", "service-down"),
        ("SaltctlRedisUnverified", "min(saltctl_registry_verified) == 0", "1m", "critical",
         "The registry in Redis is not verified: every lookup asks the backup", "saltctl rebuild", "redis-restarted"),
        ("SaltctlStreamLagging", "max(saltctl_stream_lag) > 10000 and max(deriv(saltctl_stream_lag[5m])) >= 0",
         "5m", "warning", "The heat stream grows faster than it is read", "saltctl stream status", "stream-backlog"),
        ("SaltctlStreamStalled", "max(saltctl_stream_lag) > 0 and sum(rate(saltctl_reports_total[2m])) == 0", "2m",
         "critical", "Heat reports wait, and the service handles none of them", "saltctl stream status",
         "stream-backlog"),
        ("SaltctlBackingOff", "max(saltctl_back_off_seconds) > 0", "2m", "warning",
         "The service backs off: DynamoDB or Redis fails", "saltctl service status", "service-down"),
        ("SaltctlPartLate", "max by (part) (saltctl_part_late) > 0", "1m", "critical",
         "A part of the service has not done its work for a while; its log says why", "saltctl service status",
         "service-down"),
        ("SaltctlUnexpectedErrors", "increase(saltctl_unexpected_errors_total[10m]) > 0", "0m", "warning",
         "The service met exceptions that it does not know; its log has their types", "saltctl service status",
         "service-down"),
        ("SaltctlEntriesLost", "increase(saltctl_lost_total[10m]) > 0", "0m", "critical",
         "Entries of the heat stream were trimmed before they were handled", "saltctl stream status", "stream-backlog"),
        ("SaltctlClamped", "increase(saltctl_clamped_total[10m]) > 0", "0m", "warning",
         f"A conversation needs more than the cap of {settings.max_n_cap} salts", "saltctl registry list --sort n",
         "throttled"),
        ("SaltctlDeadLetters", "increase(saltctl_dead_letters_total[10m]) > 0", "0m", "warning",
         "Entries of the heat stream could not be handled", "saltctl stream dead list", "stream-backlog"),
    )  # fmt: skip
    text = _SCRAPING + "groups:\n  - name: saltctl\n    rules:\n"
    for name, expression, lasting, severity, summary, command, topic in alerts:
        text += (
            f"      - alert: {name}\n        expr: {json.dumps(expression)}\n        for: {lasting}\n"
            f"        labels:\n          severity: {severity}\n"
            f"        annotations:\n          summary: {json.dumps(summary)}\n"
            f"          command: {json.dumps(command)}\n"
            f"          runbook: saltctl help {topic}\n"
        )
    return text
