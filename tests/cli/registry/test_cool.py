"""``saltctl registry cool``: two phases, several conversations, what is asked and what is warned of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from saltctl.history.history import History
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.entries import CooledEntry
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow

KEYS = "conversation_id phase max_n write_n recent_n recent_from ready_at changed reason pushed_by problem dry_run"
LONG_AGO = "2026-01-01T00:00:00.000Z"
Put = Callable[..., None]


@pytest.fixture
def put(configured: Settings, registry: Registry, saltctl: Runner, rebuild: Rebuilder) -> Iterator[Put]:
    """``put("conv", key, …)`` raises a conversation to 4 salts, and writes messages; Redis is verified."""
    assert saltctl("setup", "--messages").code == 0
    rebuild()
    with History(registry, MessagesTable(configured)) as history:

        def write(conversation_id: str, *keys: str) -> None:
            registry.raise_to(conversation_id, 4)
            for key in keys:
                history.put(conversation_id, key, {})

        yield write


def wait(backup: BackupTable, conversation_id: str) -> None:
    """Let the wait of a cool-down be over."""
    backup.client.update_item(
        TableName=backup.name,
        Key={KEY: {"S": conversation_id}},
        UpdateExpression="SET cooling.narrowed_at = :at",
        ExpressionAttributeValues={":at": {"S": LONG_AGO}},
    )


def test_a_conversation_is_cooled_in_two_runs(
    put: Put, saltctl: Runner, backup: BackupTable, store: RedisRegistry
) -> None:
    """The first asks, since older clients are refused from then on; the same command goes on, and needs no --to."""
    put("conv", *(f"2026-06-01T07:00:{n:02}Z#m{n}" for n in range(9)))
    previewed = saltctl("registry", "cool", "conv", "--to", "1", "--dry-run", "-o", "json")
    (record,) = previewed.json
    assert list(record) == [*KEYS.split(), "queries_before", "queries_after", "rcu_before", "rcu_after"]
    assert (record["phase"], record["changed"], record["dry_run"]) == ("narrowed", True, True)
    assert (record["queries_before"], record["queries_after"], record["rcu_after"]) == (5, 1, 1.0)
    refused = saltctl("registry", "cool", "conv", "--to", "1", "-o", "json")
    assert (refused.code, refused.error["hint"].split("\n")[-1]) == (
        6,
        "saltctl registry cool conv --to 1 -o json --yes",
    )
    assert "releases of saltctl that do not know cooling are refused" in refused.error["message"]
    assert store.read_unverified(["conv"]) == {"conv": 4}
    narrowed = saltctl("registry", "cool", "conv", "--to", "1", "--yes", "--reason", "quiet now", "-o", "table")
    assert narrowed.code == 0
    assert narrowed.out.startswith("narrowed conv: new messages use 1 salt; seal it from ")
    assert narrowed.out.endswith(" on:\n  saltctl registry cool conv --to 1 --yes\n")
    assert narrowed.err.startswith("from now on releases of saltctl that do not know cooling are refused")
    waiting = saltctl("registry", "cool", "conv", "-o", "json")
    (record,) = waiting.json
    assert list(record) == KEYS.split()
    assert (waiting.code, waiting.err, record["phase"], record["changed"]) == (0, "", "narrowed", False)
    assert record["ready_at"] > LONG_AGO
    wait(backup, "conv")
    seen = saltctl("registry", "get", "conv", "-o", "table").out
    assert "recent" not in seen
    assert "cooled to 1 " in " ".join(seen.split())
    sealed = saltctl("registry", "cool", "conv", "-o", "json")
    (record,) = sealed.json
    key = "2026-06-01T07:00:08Z#m8!"
    assert (record["phase"], record["recent_n"], record["recent_from"], record["max_n"]) == ("sealed", 1, key, 4)
    assert store.read_unverified(["conv"]) == {"conv": CooledEntry(4, 1, 1, 1, 1, key)}
    again = saltctl("registry", "cool", "conv", "-o", "table")
    assert " ".join(again.out.split()) == f"already sealed conv: from {key!r} on readers ask 1 salt, not 4"
    (record,) = saltctl("registry", "get", "conv", "-o", "json").json
    assert (record["recent_n"], record["recent_from"], record["in_sync"]) == (1, key, True)
    assert record["raises"][-1]["reason"] == "quiet now"
    assert "recent from" in saltctl("registry", "get", "conv", "-o", "table").out
    assert "recent_n" not in saltctl("registry", "get", "conv", "-o", "tsv").out
    assert saltctl("registry", "set", "conv", "1").code == 0
    raised = saltctl("registry", "set", "conv", "2", "--yes", "-o", "json").json
    assert (raised["before"], raised["after"]) == (1, 2)
    lower = saltctl("registry", "set", "conv", "1", "-o", "json")
    assert (lower.code, lower.error["hint"]) == (6, "saltctl registry cool conv --to 1")
    assert saltctl("registry", "cool", "conv", "--to", "1", "-o", "json").json[0]["phase"] == "narrowed"
    assert "cooled" in [event["kind"] for event in saltctl("incident", "--since", "1h", "-o", "json").json["events"]]


def test_one_that_fails_stops_no_other(put: Put, saltctl: Runner, backup: BackupTable) -> None:
    """Exit 4, and a problem in its record; alone it is an error of its own."""
    put("a b", "2026-06-01T07:00:00Z#m")
    put("empty")
    put("untimed", "k")
    outcome = saltctl("registry", "cool", "untimed", "empty", "a b", "plain", "--to", "1", "--dry-run", "-o", "json")
    assert outcome.code == 4
    assert [(r["phase"], r["changed"], r["problem"] is None) for r in outcome.json] == [
        *((None, None, False),) * 2,
        ("narrowed", True, True),
        (None, False, True),
    ]
    assert outcome.error["message"].startswith(
        "2 of 4 conversations could be cooled; not cooled: untimed, empty: 'empty' has no"
    )
    shown = saltctl("registry", "cool", "empty", "a b", "--to", "1", "--dry-run", "-o", "table").out
    assert shown.startswith("not cooled: empty: 'empty' has no messages")
    costs = "\n  a newest page costs 5 queries (5 RCU), and 1 query (1 RCU) once it lies beyond the boundary\n"
    assert " ".join(f"would narrow a b: new messages use 1 salt{costs}".split()) in " ".join(shown.split())
    assert saltctl("registry", "cool", "empty", "--to", "1", "--yes").code == 6


def test_the_other_commands_know_cooled_entries(
    configured: Settings,
    registry: Registry,
    backup: BackupTable,
    saltctl: Runner,
    rebuild: Rebuilder,
    redis_server: LocalRedis,
    tmp_path: Path,
) -> None:
    """Exports of both sides are equal, their import changes nothing, and drift that no number shows is explained."""
    rebuild()
    for name, boundary in (("narrowed", None), ("sealed", "2026#\n\x1b 'x'\u202e"), ("numbers", Decimal("1.5E+3"))):
        registry.raise_to(name, 8)
        entry = backup.get(name)
        assert entry is not None
        narrowed = entry.narrowed(Raise(1, LONG_AGO, "me", "", cooled=True))
        assert backup.replace(entry, narrowed)
        assert boundary is None or backup.replace(narrowed, narrowed.sealed(boundary))
        registry.complete(name)
    exports = [saltctl("registry", "export", "--source", side).out for side in ("redis", "backup")]
    assert exports[0] == exports[1]
    assert '"recent_n": 1, "recent_from": 1500}' in exports[0]
    (tmp_path / "export").write_text(exports[0])
    imported = saltctl("registry", "import", str(tmp_path / "export"), "--yes", "-o", "json").json
    assert (imported["read"], imported["unchanged"], imported["completed"]) == (3, 3, 0)
    assert saltctl("rebuild", "--dry-run", "-o", "json").json["restored"] == 0
    assert saltctl("registry", "list", "-o", "tsv").out.splitlines()[1:] == ["narrowed\t8", "numbers\t8", "sealed\t8"]
    compared = saltctl("compare", "-o", "table")
    assert (compared.code, compared.err) == (
        0,
        "1 conversation is narrowed and not sealed: saltctl registry cool narrowed\n",
    )
    shown = " ".join(saltctl("status", "-o", "table").out.split())
    assert "1 conversation of the sample is narrowed and not sealed: saltctl registry cool narrowed" in shown
    (check,) = saltctl("doctor", "--only", "drift", "-o", "json").json["checks"]
    assert check["status"] == "ok"
    assert check["detail"].endswith("narrowed by a cool-down and not sealed: 1, see saltctl registry cool narrowed")
    with plain_client(redis_server) as client:
        client.hset(f"salt:r:{bucket_of('sealed', configured.buckets)}", "sealed", "8")
    repaired = " ".join(saltctl("compare", "--repair", "--yes", "-o", "table").out.split())
    assert repaired.startswith("Repaired: 1 of 3 entries")
    assert "Redis lacks the newest cool-down" in repaired
    assert saltctl("registry", "export", "--source", "redis").out == exports[0]


def test_sort_keys_without_times_need_yes(put: Put, saltctl: Runner, backup: BackupTable) -> None:
    """The hint is the same command with it; --yes of the other phase is in the command that goes on."""
    put("-x", "k1", "k2")
    assert saltctl("registry", "cool", "--to", "1", "--yes", "--dry-run", "--", "-x").code == 0
    refused = saltctl("registry", "cool", "--to", "1", "--dry-run", "-o", "json", "--", "-x")
    assert (refused.code, refused.error["code"]) == (6, "unknown_times")
    hint = refused.error["hint"].split("\n")[-1]
    assert hint == "saltctl registry cool --to 1 --dry-run -o json --yes -- -x"
    narrowed = saltctl("registry", "cool", "--to", "1", "--yes", "-o", "table", "--", "-x")
    assert narrowed.out.endswith("\n  saltctl registry cool --to 1 --yes -- -x\n")
    wait(backup, "-x")
    assert saltctl("registry", "cool", "-o", "json", "--", "-x").code == 6
    assert saltctl("registry", "cool", "--yes", "-o", "json", "--", "-x").json[0]["recent_from"] == "k2!"


def test_a_scheduled_message_is_named(put: Put, saltctl: Runner, backup: BackupTable) -> None:
    """On stderr, with its sort key quoted: it says how far newest pages cost as before."""
    put("conv", "2026-06-01T07:00:00Z#m", "2999-01-01T00:00:00Z#a'b \x1b[2J\u202e")
    for options in (("--dry-run",), ("--yes",), ()):
        if not options:
            wait(backup, "conv")
        outcome = saltctl("registry", "cool", "conv", "--to", "1", *options, "-o", "table")
        assert outcome.code == 0
        if options != ("--yes",):
            assert "'conv' has a message in the future, '2999-01-01T00:00:00Z#a'\"'\"'b \\x1b[2J\\u202e'" in outcome.err
            assert "ask all 4 salts" in outcome.err
        assert "\x1b" not in outcome.out + outcome.err


def test_n_is_what_the_reports_need(put: Put, saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """With a new stream it has to be given: what is hot must not look idle. What needs no cooling needs no stream."""
    put("conv", "2026-06-01T07:00:00Z#m")
    refused = saltctl("registry", "cool", "conv", "plain", "--dry-run", "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "refused")
    assert refused.error["hint"] == "give the N that new messages need, with --to"
    assert saltctl("registry", "cool", "plain", "-o", "json").json[0]["changed"] is False
    with plain_client(redis_server) as client, closing(HeatStream(configured)) as stream:
        client.delete(stream.key)
        client.xadd(stream.key, {"v": "1"}, id=f"{int(time.time() - 3600) * 1000}-0")
        stream.append_reports([HeatReport("conv", server, int(time.time()) - 5, 600) for server in "ab"])
    previewed = saltctl("registry", "cool", "conv", "plain", "--dry-run", "-o", "json").json
    assert [(record["write_n"], record["changed"]) for record in previewed] == [(2, True), (1, False)]


@pytest.mark.parametrize(
    ("options", "code", "hint"),
    [
        (("--to", "3"), 6, "saltctl registry cool a 'b c' --to 4"),
        (("--to", "512"), 6, "use 256, or raise the setting max_n_cap (SALTCTL_MAX_N_CAP)"),
    ],
)
def test_what_cannot_be_is_refused(
    options: tuple[str, ...], code: int, hint: str, saltctl: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a server is asked. A wait below that of the servers would let a late writer be missed."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1")
    outcome = saltctl("registry", "cool", "a", "b c", *options, "-o", "json")
    assert (outcome.code, outcome.error["hint"]) == (code, hint)


def test_idle_conversations_are_narrowed_and_begun_cool_downs_are_sealed(
    put: Put, saltctl: Runner, configured: Settings, backup: BackupTable, redis_server: LocalRedis
) -> None:
    """For cron: what was begun is sealed even if it cannot be told what was idle, which exits 6."""
    put("begun", "2026-06-01T07:00:00Z#m")
    put("quiet", "2026-06-01T07:00:00Z#m")
    assert saltctl("registry", "cool", "begun", "--to", "1", "--yes").code == 0
    wait(backup, "begun")
    unknown = saltctl("registry", "cool", "--idle", "10m", "--yes", "-o", "json")
    assert (unknown.code, [record["phase"] for record in unknown.json]) == (6, ["sealed"])
    assert "it is not known that Redis was verified throughout" in unknown.error["message"]
    again = saltctl("registry", "cool", "--idle", "10m", "--yes", "-o", "json")
    assert (again.code, again.out) == (6, "")
    with closing(plain_client(redis_server)) as client, closing(HeatStream(configured)) as stream:
        now = time.time()
        fields = [str(part) for part in HeatReport("other", "app", int(now) - 60, 20).fields()]
        for minutes in (12, 8, 4, 1):
            pairs = dict(zip(fields[::2], fields[1::2], strict=True))
            client.xadd(stream.key, pairs, id=f"{int((now - 60 * minutes) * 1000)}-*")
    for conversation_id in ("begun", "quiet"):  # raised a moment ago
        backup.client.update_item(
            TableName=backup.name,
            Key={KEY: {"S": conversation_id}},
            UpdateExpression="SET raises[0].#at = :at",
            ExpressionAttributeNames={"#at": "at"},
            ExpressionAttributeValues={":at": {"S": LONG_AGO}},
        )
    with closing(ServiceState(configured)) as state, closing(RedisRegistry(configured)) as redis:
        state.note_verified(list(redis.replication_ids()), 0.0, backup.name, "here")
    idle = saltctl("registry", "cool", "--idle", "10m", "--yes", "-o", "json")
    assert [(record["conversation_id"], record["phase"]) for record in idle.json] == [("quiet", "narrowed")]
    assert idle.code == 0
    backup.client.update_item(
        TableName=backup.name,
        Key={KEY: {"S": "quiet"}},
        UpdateExpression="SET raises[1].#at = :at",
        ExpressionAttributeNames={"#at": "at"},
        ExpressionAttributeValues={":at": {"S": LONG_AGO}},
    )
    wait(backup, "quiet")
    assert saltctl("registry", "cool", "--idle", "10m", "-o", "json").json[0]["phase"] == "sealed"
    nothing = saltctl("registry", "cool", "--idle", "10m", "-o", "json")
    assert (nothing.code, nothing.json) == (0, [])
    assert "no conversation was idle, and none waits to be sealed" in nothing.err
