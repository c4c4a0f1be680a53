"""``saltctl registry``: its output, refusals and messages."""

from __future__ import annotations

import shlex
import uuid
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from unicodedata import category

import pytest

from saltctl.cli.formats.delimited import tsv_value
from saltctl.cli.output import UNKNOWN
from saltctl.local.servers import LocalMoto, LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import Runner, variables_of
from tests.conftest import TEST_BUCKETS
from tests.support import Rebuilder, rebuild_job
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow

ESC = "\x1b"
HOSTILE = ["[red]conv[/red]", f"{ESC}[31mconv", "conv\u202egnp", "a\tb", "=cmd()", "conv\x9b2J", "[/]"]


def test_get_shows_both_sides(saltctl: Runner, configured: Settings, registry: Registry, rebuild: Rebuilder) -> None:
    """A raised conversation is salted, in sync, and has its raises; an unknown one has max_n 1."""
    rebuild()
    registry.raise_to("conv", 4, reason="launch")
    outcome = saltctl("registry", "get", "conv", "other", "-o", "json")
    salted, unsalted = outcome.json
    assert salted["max_n"] == salted["write_n"] == salted["redis_n"] == salted["backup_n"] == 4
    assert (salted["source"], salted["in_sync"], salted["salted"]) == ("redis", True, True)
    assert [(r["n"], r["by"], r["reason"]) for r in salted["raises"]] == [(4, "tester@test", "launch")]
    assert salted["raises"][0]["at"].endswith("Z")
    assert (unsalted["max_n"], unsalted["salted"], unsalted["raises"]) == (1, False, [])
    assert outcome.code == 0
    assert outcome.err == ""


def test_get_before_a_rebuild_asks_the_backup(saltctl: Runner, configured: Settings, registry: Registry) -> None:
    """With an unverified Redis the answer comes from the backup, with a warning."""
    registry.raise_to("conv", 4)
    outcome = saltctl("registry", "get", "conv", "-o", "json")
    assert outcome.code == 0
    assert (outcome.json[0]["source"], outcome.json[0]["max_n"], outcome.json[0]["redis_n"]) == ("backup", 4, 4)
    assert "not verified" in outcome.err
    assert "saltctl rebuild" in outcome.err


def test_get_with_redis_down_answers_from_the_backup(
    saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """Without Redis the backup answers; the number in Redis is null and not a guess."""
    registry.raise_to("conv", 4)
    redis_server.kill()
    outcome = saltctl("registry", "get", "conv", "-o", "json")
    assert outcome.code == 0
    record = outcome.json[0]
    assert (record["max_n"], record["source"], record["redis_n"], record["in_sync"]) == (4, "backup", None, None)
    assert (record["redis_state"], record["backup_state"]) == (None, "entry")
    assert "cannot be reached" in outcome.err
    assert UNKNOWN in saltctl("registry", "get", "conv", "-o", "table").out


@pytest.mark.parametrize("id_is_set", [True, False])
def test_get_without_the_backup_answers_in_part(
    id_is_set: bool,
    saltctl: Runner,
    configured: Settings,
    registry: Registry,
    backup: BackupTable,
    rebuild: Rebuilder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Exit 4: the values of the backup are null; max_n is, too, if the id of the registry is not known."""
    rebuild()
    registry.raise_to("conv", 4)
    if id_is_set:
        monkeypatch.setenv("SALTCTL_REGISTRY_ID", backup.registry.id())
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    outcome = saltctl("registry", "get", "conv", "-o", "json")
    assert outcome.code == 4
    assert outcome.error["code"] == "incomplete"
    assert "AWS cannot be reached" in outcome.error["message"]
    record = outcome.json[0]
    seen = (record["max_n"], record["write_n"], record["source"], record["salted"])
    assert seen == ((4, 4, "redis", True) if id_is_set else (None,) * 4)
    assert (record["redis_n"], record["backup_n"], record["in_sync"], record["raises"]) == (4, None, None, None)
    assert UNKNOWN in saltctl("registry", "get", "conv", "-o", "table").out


def test_get_with_both_sides_down(saltctl: Runner, configured: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 69 and no record: nothing is known."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0")
    outcome = saltctl("registry", "get", "conv", "-o", "json")
    assert (outcome.code, outcome.out) == (69, "")


def test_get_during_a_raise(saltctl: Runner, configured: Settings, backup: BackupTable, rebuild: Rebuilder) -> None:
    """A raise that stopped after its first step: the sides differ and write_n is behind."""
    rebuild()
    backup.raise_max_n("conv", Raise(8, "2026-01-01T00:00:00Z", "x", ""))
    record = saltctl("registry", "get", "conv", "-o", "json").json[0]
    assert (record["redis_n"], record["redis_state"]) == (1, "absent")
    assert (record["backup_n"], record["backup_state"], record["in_sync"]) == (8, "entry", False)
    assert UNKNOWN in saltctl("registry", "get", "conv", "-o", "table").out  # every other value is known


def test_set_raises_and_reports_the_change(saltctl: Runner, configured: Settings, store: RedisRegistry) -> None:
    """A confirmed raise reaches the backup and Redis, and a second one has nothing to do."""
    first = saltctl("registry", "set", "conv", "4", "--yes", "--reason", "launch", "-o", "json")
    assert first.json == {
        "conversation_id": "conv",
        "before": 1,
        "after": 4,
        "changed": True,
        "committed": True,
        "dry_run": False,
    }
    assert store.read_unverified(["conv"]) == {"conv": 4}
    again = saltctl("registry", "set", "conv", "4", "-o", "json")
    assert (again.code, again.json["changed"]) == (0, False)


def test_set_completes_an_interrupted_raise(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """An equal N whose raise was interrupted is completed."""
    backup.raise_max_n("conv", Raise(4, "2026-01-01T00:00:00Z", "x", ""))
    outcome = saltctl("registry", "set", "conv", "4", "--yes", "-o", "json")
    assert (outcome.json["changed"], outcome.json["committed"]) == (False, True)
    entry = backup.get("conv")
    assert entry is not None
    assert entry.write_n == 4


@pytest.mark.parametrize("in_redis", [None, b"1", b"2", b"garbage"])
def test_set_completes_what_redis_lacks(
    in_redis: bytes | None,
    saltctl: Runner,
    configured: Settings,
    registry: Registry,
    store: RedisRegistry,
    redis_server: LocalRedis,
) -> None:
    """An equal N in the backup alone is not "nothing to do": servers ask Redis."""
    registry.raise_to("conv", 4)
    with plain_client(redis_server) as client:
        client.hdel(store.key_of("conv"), "conv")
        if in_redis is not None:
            client.hset(store.key_of("conv"), "conv", in_redis)
        dry = saltctl("registry", "set", "conv", "4", "--dry-run", "-o", "json")
        assert (dry.code, dry.json["committed"]) == (0, False)
        assert saltctl("registry", "set", "conv", "4", "--dry-run").out.startswith("Dry run: would complete ")
        assert saltctl("registry", "set", "conv", "4").code == 6
        assert client.hget(store.key_of("conv"), "conv") == in_redis
    done = saltctl("registry", "set", "conv", "4", "--yes", "-o", "json")
    assert (done.code, done.json["changed"], done.json["committed"]) == (0, False, True)
    assert store.read_unverified(["conv"]) == {"conv": 4}
    assert saltctl("registry", "set", "conv", "4").out.startswith("Nothing to do: ")


def test_set_refuses_less_than_redis_has(
    saltctl: Runner, configured: Settings, registry: Registry, store: RedisRegistry, backup: BackupTable
) -> None:
    """Servers use the N of Redis. The hint raises the backup to it."""
    registry.raise_to("conv", 4)
    store.merge("conv", 16)
    outcome = saltctl("registry", "set", "conv", "4", "--yes", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (6, "invalid_n")
    assert "16 salts, in Redis alone" in outcome.error["message"]
    assert saltctl(*shlex.split(outcome.error["hint"])[1:], "--yes").code == 0
    entry = backup.get("conv")
    assert entry is not None
    assert (entry.max_n, entry.write_n) == (16, 16)


def test_set_without_redis_does_not_say_that_all_is_done(
    saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """Nobody knows the N in Redis: the raise is incomplete, exit 4."""
    registry.raise_to("conv", 4)
    redis_server.kill()
    outcome = saltctl("registry", "set", "conv", "4", "--yes", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (4, "raise_incomplete")
    assert "nothing to do" not in outcome.err


def test_get_is_not_in_sync_before_the_commit(saltctl: Runner, configured: Settings, registry: Registry) -> None:
    """Both sides have the N, but writers that ask the backup do not use it yet."""
    registry.backup.raise_max_n("conv", Raise(4, "2026-01-01T00:00:00Z", "x", ""))
    registry.store.merge("conv", 4)
    record = saltctl("registry", "get", "conv", "-o", "json").json[0]
    assert (record["redis_n"], record["backup_n"], record["in_sync"]) == (4, 4, False)


def test_set_dry_run_changes_nothing(
    saltctl: Runner, configured: Settings, backup: BackupTable, store: RedisRegistry
) -> None:
    """A dry run reports the change and makes it on neither side."""
    outcome = saltctl("registry", "set", "conv", "4", "--dry-run", "-o", "json")
    assert (outcome.json["after"], outcome.json["changed"], outcome.json["dry_run"]) == (4, True, True)
    assert backup.get("conv") is None
    assert store.read_unverified(["conv"]) == {"conv": None}


def test_set_without_a_terminal_needs_yes(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """In a script a raise needs --yes: without it, it exits with 6 and does not wait for an answer."""
    outcome = saltctl("registry", "set", "conv", "4", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (6, "confirmation_required")
    assert "--yes" in outcome.error["hint"]
    assert backup.get("conv") is None


@pytest.mark.parametrize(
    ("n", "names"),
    [
        ("0", "at least 1"),
        ("3", "saltctl registry set conv 4"),
        ("5", "saltctl registry set conv 8"),
        ("255", "saltctl registry set conv 256"),
        ("512", "use 256"),
    ],
)
def test_set_refuses_an_invalid_n(n: str, names: str, saltctl: Runner, configured: Settings) -> None:
    """Zero, not a power of two, above the cap: exit 6, and a valid N is named."""
    outcome = saltctl("registry", "set", "conv", n, "--yes", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (6, "invalid_n")
    assert names in outcome.error["message"] + outcome.error["hint"]


def test_set_refuses_a_negative_n(saltctl: Runner, configured: Settings) -> None:
    """A negative N looks like an option and is a usage error; after ``--`` it is refused as an N."""
    assert saltctl("registry", "set", "conv", "-4", "--yes").code == 2
    assert saltctl("registry", "set", "--yes", "--", "conv", "-4").code == 6


@pytest.mark.parametrize("n", ["four", "4.5", "", "1e3", "1_6", " 4", "4\n", "\uff14", "1" * 5000])
def test_set_refuses_an_n_that_is_not_a_number(n: str, saltctl: Runner, configured: Settings) -> None:
    """An N that is not a whole number is a usage error."""
    assert saltctl("registry", "set", "conv", n, "--yes").code == 2


def test_set_refuses_a_lower_n(saltctl: Runner, configured: Settings, registry: Registry) -> None:
    """max_n never goes down: exit 6 with the reason, and a hint in which the id is one word for a shell."""
    conversation = "conv; touch $(pwned)"
    registry.raise_to(conversation, 8)
    outcome = saltctl("registry", "set", conversation, "4", "--yes", "-o", "json")
    assert outcome.code == 6
    assert "never goes down" in outcome.error["message"]
    assert shlex.split(outcome.error["hint"]) == [*("saltctl", "registry", "cool", conversation, "--to", "4", "--yes")]


@pytest.mark.parametrize("conversation", ["", "a#3", "x" * 2001, "é" * 1001])
def test_invalid_ids_are_refused(conversation: str, saltctl: Runner, configured: Settings) -> None:
    """Empty, with a '#', over 2,000 bytes: exit 6 from every command that takes an id."""
    for args in (("registry", "get", conversation), ("registry", "set", conversation, "4", "--yes")):
        outcome = saltctl(*args, "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (6, "invalid_conversation_id")


@pytest.fixture(scope="module")
def registry_of(tmp_path_factory: pytest.TempPathFactory, moto: LocalMoto) -> Iterator[Callable[[str], Settings]]:
    """``registry_of(id)``: a verified registry with this conversation alone. Tests only read it."""
    server = LocalRedis(tmp_path_factory.mktemp("registries") / "redis")
    server.start()

    @cache
    def prepare(conversation: str) -> Settings:
        mine = uuid.uuid4().hex[:8]
        settings = Settings(
            redis_url=server.url,
            buckets=TEST_BUCKETS,
            key_prefix=f"salt-{mine}",
            backup_table=f"backup-{mine}",
            aws_endpoint_url=moto.url,
            aws_region="us-east-1",
        )
        backup = BackupTable(settings)
        store = RedisRegistry(settings, registry_id=backup.registry.id)
        backup.create()
        list(rebuild_job(settings, store, backup).run())
        Registry.over(settings, store, backup).raise_to(conversation, 2, reason=conversation)
        store.close()
        return settings

    yield prepare
    server.kill()


@pytest.mark.parametrize("conversation", HOSTILE)
@pytest.mark.parametrize("form", ["table", "tsv", "csv", "json", "jsonl"])
def test_hostile_ids_are_accepted_and_never_printed_raw(
    conversation: str,
    form: str,
    saltctl: Runner,
    registry_of: Callable[[str], Settings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Markup, escapes, bidirectional overrides and formulas are valid in an id.

    Control characters are never printed raw, and format characters only as data in a pipe. CSV has no formulas.
    """
    settings = registry_of(conversation)
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SALTCTL_KEY_PREFIX", settings.key_prefix)
    for args in (("registry", "get", conversation), ("registry", "list")):
        outcome = saltctl(*args, "-o", form)
        assert outcome.code == 0, outcome.err
        shown = outcome.out + outcome.err
        raw = {c for c in shown if not c.isprintable() and c not in "\n\t"}
        assert not {c for c in raw if form not in ("tsv", "csv") or category(c) == "Cc"}
        if form == "tsv":
            assert tsv_value(outcome.out.split("\n")[1].split("\t")[0]) == conversation
        if form == "csv":
            assert not outcome.out.split("\n")[1].startswith(("=", "+", "-", "@"))
        if form == "json":
            assert outcome.json[0]["conversation_id"] == conversation


def test_wrong_password_is_a_permission_error(
    saltctl: Runner, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that Redis refuses are exit 77 from every command, and are not printed."""
    url = configured.require_redis_url().replace("redis://", "redis://:hunter2@")
    monkeypatch.setenv("SALTCTL_REDIS_URL", url)
    for args in (("registry", "get", "conv"), ("registry", "list", "--source", "redis"), ("rebuild",), ("setup",)):
        outcome = saltctl(*args, "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (77, "access_denied"), args
        assert "hunter2" not in outcome.out + outcome.err


def test_get_is_answered_by_the_backup_if_redis_refuses(
    saltctl: Runner, configured: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As servers are: what Redis holds is unknown, and the exit code is that of the refusal."""
    registry.raise_to("conv", 4)
    url = configured.require_redis_url().replace("redis://", "redis://:hunter2@")
    monkeypatch.setenv("SALTCTL_REDIS_URL", url)
    outcome = saltctl("registry", "get", "conv", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (77, "access_denied")
    assert "refuses these credentials" in outcome.error["message"]
    assert "hunter2" not in outcome.out + outcome.err
    (record,) = outcome.json
    assert (record["max_n"], record["source"], record["redis_n"], record["backup_n"]) == (4, "backup", None, 4)


def test_wrong_port_is_an_outage(saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """If no server listens, commands that need Redis exit with 69 and name host and port."""
    redis_server.kill()
    for args in (("rebuild",), ("setup",), ("registry", "list", "--source", "redis")):
        outcome = saltctl(*args, "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (69, "redis_unavailable"), args
        assert f"127.0.0.1:{redis_server.port}" in outcome.error["message"]


def test_a_raise_without_redis_is_incomplete(
    saltctl: Runner, configured: Settings, redis_server: LocalRedis, backup: BackupTable
) -> None:
    """The backup holds the raise, writers do not use it yet, and the message says how to complete it: exit 4."""
    redis_server.kill()
    outcome = saltctl("registry", "set", "conv", "4", "--yes", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (4, "raise_incomplete")
    entry = backup.get("conv")
    assert entry is not None
    assert (entry.max_n, entry.write_n) == (4, 1)
    redis_server.start()
    assert saltctl("registry", "set", "conv", "4", "--yes", "-o", "json").json["committed"] is True


def test_a_missing_backup_table_is_a_configuration_error(
    saltctl: Runner, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that does not exist is exit 78, and the hint is `saltctl setup`."""
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", "no-such-table")
    for args in (("registry", "set", "conv", "4", "--yes"), ("rebuild",), ("registry", "list", "--source", "backup")):
        outcome = saltctl(*args, "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (78, "configuration"), args
        assert "saltctl setup" in outcome.error["hint"]


def test_another_bucket_count_is_fenced_and_refused(
    saltctl: Runner, configured: Settings, registry: Registry, rebuild: Rebuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with another bucket count is answered by the backup, and can neither raise nor rebuild."""
    rebuild()
    registry.raise_to("conv", 4)
    monkeypatch.setenv("SALTCTL_BUCKETS", str(configured.buckets * 2))
    looked = saltctl("registry", "get", "conv", "-o", "json").json[0]
    assert (looked["max_n"], looked["source"]) == (4, "backup")
    for args in (("registry", "set", "conv", "8", "--yes"), ("rebuild",)):
        outcome = saltctl(*args, "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (78, "other_registry"), args
        assert f"SALTCTL_BUCKETS={configured.buckets}" in outcome.error["hint"]
    assert registry.lookup("conv").max_n == 4


def test_an_evicting_redis_is_refused(saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """A maxmemory-policy that evicts is exit 78, and the hint has the right setting."""
    redis_server.stop()
    evicting = LocalRedis(redis_server.directory, options={"maxmemory-policy": "allkeys-lru"})
    evicting.port = redis_server.port
    evicting.start()
    try:
        for args in (("rebuild",), ("setup",)):
            outcome = saltctl(*args, "-o", "json")
            assert outcome.code == 78
            assert "noeviction" in outcome.error["hint"]
    finally:
        evicting.stop()


def test_list_filters_sorts_and_limits(
    saltctl: Runner, configured: Settings, registry: Registry, rebuild: Rebuilder
) -> None:
    """Both sources list the same entries; filters, order and limit are applied."""
    rebuild()
    for conversation, n in (("a1", 2), ("a2", 8), ("b1", 4)):
        registry.raise_to(conversation, n)
    for source in ("redis", "backup"):
        call = ("registry", "list", "--source", source, "-o", "json")
        assert [e["conversation_id"] for e in saltctl(*call).json] == ["a1", "a2", "b1"]
        assert [e["max_n"] for e in saltctl(*call, "--sort", "n").json] == [8, 4, 2]
        assert [e["conversation_id"] for e in saltctl(*call, "--prefix", "a", "--min-n", "4").json] == ["a2"]
        assert [e["max_n"] for e in saltctl(*call, "--sort", "n", "--limit", "1").json] == [8]


def test_list_of_an_unverified_redis_comes_from_the_backup(
    saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """Without --source an unverified Redis is not listed, and a warning says so."""
    registry.raise_to("conv", 4)
    redis_server.kill()
    redis_server.delete_aof()
    redis_server.start()
    outcome = saltctl("registry", "list", "-o", "json")
    assert outcome.json == [{"conversation_id": "conv", "max_n": 4}]
    assert "not verified" in outcome.err
    assert saltctl("registry", "list", "--source", "redis", "-o", "json").json == []


def test_a_protected_context_needs_its_name(
    saltctl: Runner, configured: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change in a protected context is refused without ``--confirm NAME``, also with --yes."""
    path = tmp_path / "config.toml"
    path.write_text('default_context = "prod"\n[contexts.prod]\nprotected = true\n')
    monkeypatch.setenv("SALTCTL_CONFIG", str(path))
    call = ("registry", "set", "conv", "4", "--yes", "-o", "json")
    assert saltctl(*call).code == 6
    assert saltctl(*call, "--confirm", "staging").code == 6
    assert "--confirm prod" in saltctl(*call).error["hint"]
    assert saltctl(*call, "--confirm", "prod").code == 0
    assert saltctl("rebuild").code == 6
    assert saltctl("setup").code == 6
