"""The check of what DynamoDB has throttled lately."""

from __future__ import annotations

from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, fail, ok, skip
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.throttling.scan import scan_recent

MINUTES = 15


def throttles(facts: Facts) -> Finding:
    """The messages table was not throttled in the last 15 minutes."""
    client = facts.cloudwatch
    table = facts.settings.messages_table
    found = scan_recent(
        CloudWatchMetrics(facts.probe_settings, client=client, dynamodb=facts.aws.client), table, facts.now()
    )
    if not found.has_data:
        return skip(f"CloudWatch has no data of table {table} of the last {MINUTES} minutes, which is not health")
    if not found.throttled:
        return ok(f"none of table {table} in the last {MINUTES} minutes", throttle_events=found.total)
    causes = ", ".join(f"{cause} {count:,.0f}" for cause, count in found.causes.items() if count)
    detail = (
        f"table {table} was throttled {found.total:,.0f} times in the last {MINUTES} minutes ({causes or 'no cause'})"
    )
    fix = facts.fix_commands.saltctl("throttle", "scan", "--since", f"{MINUTES}m")
    return fail(detail, fix, throttle_events=found.total)
