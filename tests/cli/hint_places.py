"""The hints that no case of ``hint_cases.py`` pastes, with the reason or the test that does it."""

from __future__ import annotations

_RACE = "only if Redis fails over or loses data at one moment; the same command mends a restart, which is a case"
_LOOK = "it shows the settings, or a page, beside a sentence that says what to correct"
_DOWN = "test_hints_mend.py has a test of its own for a server that is down"
_CALLERS = "the commands that call it are cases"
_FIX = "a fix of doctor and no hint; tests/health"
_SIGNALS = "tests/cli/test_signals.py: the words of the command, with and without options"

_LOOP = "no command uses saltctl.aio; tests/aio"

NOT_RUN_HERE: dict[str, str] = {
    "aio/history.py | saltctl doctor": _LOOP,
    "aio/registry.py | saltctl doctor --only redis": _LOOP,
    "cli/canary/canary.py | saltctl canary --every 1m -o jsonl": "it runs until it is stopped; tests/cli/canary",
    "cli/canary/rounds.py | saltctl doctor": _DOWN,
    "cli/canary/rounds.py | saltctl status": _DOWN,
    "cli/detection/replay.py | saltctl stream status": "another consumer must live for the seconds of a claim",
    "cli/detection/stream.py | saltctl service run": "it runs until it is stopped; tests/health/test_doctor_servers.py",
    "cli/failures.py:failure_of": _SIGNALS,
    "cli/failures.py:output_failure": "it needs a full disk; the words are those of rerun_hint",
    "cli/formats/sentences.py:unsealed_note": "tests/cli/registry/test_cool.py: a note of compare and status",
    "cli/health/status.py | saltctl status --watch 2s -o jsonl": "it runs until it is stopped",
    "cli/jobs.py:damage_hint": _CALLERS,
    "cli/jobs.py:resume_hint": "tests/cli/test_interrupted_jobs.py resumes each job",
    "cli/local/conform.py | saltctl conform --vectors": "it prints them; tests/cli/local/test_conform.py",
    "cli/local/drill.py:run_drills": "a drill takes seconds; tests/cli/local",
    "cli/local/local.py | saltctl local run -- saltctl registry list": "seconds; tests/local/test_environment.py",
    "cli/registry/cool.py:_incomplete": "tests/cli/registry/test_cool.py: the words of the command",
    "cli/registry/cool.py:_print": "tests/cli/registry/test_cool.py goes on with it",
    "cli/registry/discover.py:_warn_unproven": "tests/cli/registry/test_export.py: the words of the command",
    "cli/registry/discover.py:discover": "tests/cli/history/test_history.py: the words of the command",
    "cli/registry/export.py:_other_table": "tests/cli/registry/test_export.py runs it again with the table",
    "cli/registry/export.py:discover_export": "tests/cli/registry/test_export.py runs it again, mended",
    "cli/registry/recover.py | saltctl registry discover": "it lists the entries that a person has to judge",
    "cli/registry/setup.py | saltctl recover --dry-run": "it needs more messages than a sample has",
    "cli/signals.py:rerun_hint": _SIGNALS,
    "cli/signals.py:rerun_with": _CALLERS,
    "cli/signals.py:rerun_without": _CALLERS,
    "cooling/cooling.py:_learn_times": "the command puts its own words in its place",
    "detection/replay.py | saltctl stream status": _RACE,
    'health/checks/redis.py | export SALTCTL_REDIS_URL="$(echo "$SALTCTL_REDIS_URL" | sed s/^redis/rediss/)"': (
        "it needs a remote server with TLS"
    ),
    "health/checks/dynamodb.py:drift": _FIX,
    "health/fix_commands.py:redis_cli": _FIX,
    "health/status.py:_ownership": "the next command of status; tests/cli/health/test_status.py",
    "health/headline.py:_drift": "the next command of status; tests/health/test_headline.py",
    "history/pages/cursor.py | saltctl config show": _LOOK,
    "local/load.py | saltctl local run -- saltctl local load": "it takes half a minute; tests/cli/local",
    "local/servers.py | python3 -m pip install 'saltctl[local]'": "it needs a package index",
    "rebuild/merge_buffer.py | saltctl rebuild": _RACE,
    "rebuild/rebuild.py | saltctl rebuild": _RACE,
    "registry/compare.py | saltctl rebuild && saltctl compare": _RACE,
    "registry/registry.py | saltctl rebuild": _RACE,
    "registry/registry.py | saltctl recover --dry-run": _RACE,
    "settings.py | saltctl local shell": "it is an interactive shell; tests/local/test_environment.py",
    "stores/aws/backup_items.py | saltctl recover --dry-run": "a table that is being deleted: DynamoDB alone has it",
    "stores/aws/failures/configuration.py | echo $4": _LOOK,
    "stores/aws/failures/errors.py | saltctl config show": _LOOK,
    "stores/aws/failures/errors.py | saltctl doctor --only backup": _DOWN,
    "stores/aws/failures/refusals.py | saltctl config show": _LOOK,
    "stores/aws/registry_item.py | saltctl rebuild": _RACE,
    "stores/bounded/aws_endpoints.py | saltctl config show": _LOOK,
    "stores/bounded/errors.py | saltctl config show": _LOOK,
    "stores/contracts/registry.py:cure": _CALLERS,
    "stores/export/database.py | python3 -m pip install 'saltctl[export]'": "it needs a package index",
    "stores/redis/buckets.py | saltctl rebuild": _RACE,
    "stores/redis/connections.py | saltctl config show": _LOOK,
    "stores/redis/connections.py | saltctl help redis-urls": _LOOK,
    "stores/redis/dedicated_connection.py | saltctl rebuild": _RACE,
    "stores/redis/errors.py | saltctl doctor --only redis": _DOWN,
    "stores/redis/errors.py | saltctl service emit acl": "it prints rules for the administrator of the server",
    "stores/redis/errors.py | saltctl rebuild --wait-redis 15m": _DOWN,
    "stores/redis/rebuild_session.py | saltctl rebuild": _RACE,
    "stores/redis/registry.py | saltctl doctor --only redis-version": "it needs a server that is not Redis",
    "stores/redis/registry.py | saltctl rebuild": _RACE,
    "stores/redis/replies/misconfiguration.py | saltctl doctor --only redis": _LOOK,
    "stores/redis/replies/misconfiguration.py | saltctl help redis-urls": _LOOK,
    "stores/redis/topology.py | saltctl doctor --only redis": _LOOK,
    "stores/redis/topology.py | saltctl help redis-urls": _LOOK,
    "stores/redis_async/lookups.py | saltctl doctor --only redis": _LOOP,
    "throttling/diagnosis.py:_hot_partition": "it needs CloudWatch's data; tests/cli/throttling/test_scan.py",
}
