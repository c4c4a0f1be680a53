"""``saltctl incident``: its sentence and table, what it says about missing sources, and the bundle."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from saltctl.cli.health.incident import sentence
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalMoto
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of, salt_of
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.event_log import EventsItem, LoggedEvent
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.times import iso_utc
from tests.cli.conftest import Runner, seeded_tables
from tests.support.redis_servers import plain_client


@pytest.fixture(scope="module")
def own_environment(moto: LocalMoto) -> Iterator[LocalEnvironment]:
    """A seeded environment of its own, for tests that add conversations."""
    with seeded_tables(moto, f"incident-{uuid4().hex[:8]}") as environment:
        yield environment


@pytest.fixture
def own(own_environment: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> LocalEnvironment:
    """That environment, in the environment variables of this test."""
    for name, value in own_environment.variables().items():
        monkeypatch.setenv(name, value)
    return own_environment


def test_it_begins_with_a_sentence_and_says_since_when_there_is_data(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """The seeded environment was throttled for twelve minutes, half an hour ago; what was hot then is not known."""
    outcome = saltctl("incident")
    assert outcome.code == 0
    text = " ".join(outcome.out.split())
    assert "events since 2" in text.partition(";")[0]
    assert "throttling ended after 12 min; its detection is unknown; Redis was found unverified, and verified" in text
    assert "data exists since: throttling 2" in text
    assert "unverified" in text
    record = saltctl("incident", "-o", "json").json
    assert (record["measured"], record["detected_s"], record["cured_s"]) == ("throttling", None, 720.0)
    assert record["resolution_s"] == 60
    times = [event["at"] for event in record["events"]]
    assert times == sorted(times)


def test_a_range_without_events_is_empty(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """And says which source never had data, which does not mean that all was well."""
    outcome = saltctl("incident", "--since", "2026-01-01T00:00:00Z", "--until", "2026-01-01T01:00:00Z")
    assert outcome.code == 0
    assert outcome.out.startswith("No events since 2026-01-01T00:00:00Z\n")
    assert "throttling never: no data" in outcome.out
    assert saltctl("incident", "--since", "1h", "--until", "2h").code == 2


@pytest.mark.parametrize(
    ("detected", "losses", "expected"),
    [
        (40.0, [("throttling", 1, 360.0, True)], "throttling was detected after 40 s, and ended after 6 min"),
        (
            90.0,
            [("throttling", 1, None, False)],
            "throttling was detected after 1.5 min, and has not ended for certain",
        ),
        (False, [("throttling", 1, 60.0, True)], "throttling was not detected by a raise, and ended after 1 min"),
        (None, [("throttling", 1, 60.0, True)], "throttling ended after 1 min; its detection is unknown"),
        (
            40.0,
            [("throttling", 3, 360.0, False)],
            "throttling began 3 times, and lasted up to 6 min; the last has not ended for certain; the first was "
            "detected after 40 s",
        ),
        (
            None,
            [("unverified", 1, 2.25, True)],
            "Redis was found unverified, and verified 2.2 s later; when it was lost is unknown",
        ),
        (
            None,
            [("unverified", 1, None, False), ("backup-lost", 1, 0.6, True)],
            "Redis was found unverified, and was not verified again; when it was lost is unknown; "
            "the backup table was found lost, and recovered 0.6 s later; when it was lost is unknown",
        ),
        (
            None,
            [("unverified", 2, 90.0, False)],
            "Redis was found unverified 2 times, and verified at most 1.5 min later; the last time it was not verified "
            "again; when it was lost is unknown",
        ),
    ],
)
def test_the_sentence(detected: float | None, losses: list[tuple[str, int, float | None, bool]], expected: str) -> None:
    """It says what is known of each kind of loss, and no more."""
    keys = ("kind", "count", "longest_s", "over")
    record: dict[str, Any] = {
        "events": [{}],
        "since": "2026-01-01T00:00:00.000Z",
        "sources": [{"name": "heat", "error": None}],
    }
    record |= {"detected_s": detected, "detected": detected if detected is None else bool(detected)}
    record |= {"losses": [dict(zip(keys, loss, strict=True)) for loss in losses]}
    assert sentence(record) == f"1 event since 2026-01-01T00:00:00Z; {expected}"


def test_a_source_that_cannot_be_read_is_named(
    saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is printed, and the exit code says that it is incomplete."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0")
    outcome = saltctl("incident", "-o", "json")
    assert outcome.code == 4
    assert {event["kind"] for event in outcome.json["events"]} >= {"throttling", "unverified", "verified"}
    assert [source["name"] for source in outcome.json["sources"] if source["error"]] == ["heat"]
    assert "lacks heat" in outcome.error["message"]
    assert "events since" in saltctl("incident").out.partition(", without heat: unknown; ")[0]


def test_events_that_cannot_be_read_are_not_told_to_be_none(
    saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their number is unknown: on the screen, in JSON and in the bundle."""
    file = tmp_path / "bundle.json"
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", "no-such-table")
    over = ("--since", "2026-01-01T00:00:00Z", "--until", "2026-01-01T01:00:00Z")
    outcome = saltctl("incident", *over, "--bundle", str(file))
    assert outcome.code == 4
    assert outcome.out.startswith("Events unknown since 2026-01-01T00:00:00Z\n")
    assert saltctl("incident", *over, "-o", "json").json["events"] is None
    assert json.loads(file.read_text())["incident"]["events"] is None
    assert saltctl("incident", *over, "-o", "tsv").out == "at\tkind\tconversation_id\tdetail\n"


def test_a_raise_by_hand_is_in_the_timeline(saltctl: Runner, own: LocalEnvironment) -> None:
    """With its reason; neither Redis nor the service names it. A raise that changes nothing adds no event."""
    name = f"conv-{uuid4().hex}"
    assert saltctl("registry", "set", name, "4", "--yes", "--reason", "launch day").code == 0
    assert saltctl("registry", "set", name, "4", "--yes").code == 0
    raised = [event for event in saltctl("incident", "-o", "json").json["events"] if event["conversation_id"] == name]
    assert [event["kind"] for event in raised] == ["raise"]
    assert raised[0]["detail"].startswith("to 4 by ")
    assert raised[0]["detail"].endswith(": launch day")
    logged = [event for event in EventsItem(BackupTable(own.settings)).read().events if name in event.conversation_ids]
    assert len(logged) == 1


def test_nothing_hostile_reaches_the_terminal(saltctl: Runner, own: LocalEnvironment) -> None:
    """Neither from the events of the backup, nor from the raises in Redis."""
    hostile = "evil\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}"
    EventsItem(BackupTable(own.settings)).append(LoggedEvent(time.time(), "service-late", hostile))
    with Registry.open(own.settings) as registry, closing(ServiceState(own.settings)) as state:
        registry.raise_to(hostile, 2, reason="hot")
        state.note_raise(hostile, 1, 2, "now", "me")
    outcome = saltctl("incident", "-o", "table")
    assert "\x1b" not in outcome.out
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in outcome.out
    assert "evil\\x1b" in outcome.out
    assert hostile in [event["conversation_id"] for event in saltctl("incident", "-o", "json").json["events"]]


def test_a_bundle_has_no_ids_and_no_password(saltctl: Runner, seeded: LocalEnvironment, tmp_path: Path) -> None:
    """It is for its owner alone, and holds the timeline, status, doctor and settings."""
    file, plain = tmp_path / "bundle.json", tmp_path / "plain.json"
    outcome = saltctl("incident", "--bundle", str(file), "-o", "json")
    assert outcome.code == 0, outcome.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text()
    document = json.loads(text)
    assert document.keys() == {"created_at", "saltctl", "ids", "incident", "status", "doctor", "settings"}
    assert document["ids"] == "hashed"
    assert "conv_hot" not in text
    assert str(seeded.redis.password) not in text
    hashed = {event["conversation_id"] for event in document["incident"]["events"]} - {None}
    assert hashed
    assert all(name.startswith("id-") for name in hashed)
    assert saltctl("incident", "--bundle", str(plain), "--with-ids").code == 0
    assert json.loads(plain.read_text())["ids"] == "plain"
    assert "conv_hot" in plain.read_text()
    assert str(seeded.redis.password) not in plain.read_text()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_bundle_replaces_nothing(saltctl: Runner, seeded: LocalEnvironment, tmp_path: Path) -> None:
    """A file that exists, a link and a special file are refused before anything is read."""
    taken, link = tmp_path / "taken.json", tmp_path / "link.json"
    taken.write_text("mine")
    link.symlink_to(tmp_path / "nowhere")
    outcomes = [saltctl("incident", "--bundle", name) for name in (str(taken), str(link), "/dev/stdout", str(tmp_path))]
    assert [outcome.code for outcome in outcomes] == [6, 6, 78, 78]
    assert {outcome.out for outcome in outcomes} == {""}
    assert taken.read_text() == "mine"
    assert saltctl("incident", "--with-ids").code == 2


def test_raises_of_a_file_and_of_a_replay_are_named(saltctl: Runner, own: LocalEnvironment, tmp_path: Path) -> None:
    """One event for each command, so that the raises are found although Redis has lost the heat."""
    names = [f"conv-{uuid4().hex}" for _ in range(3)]
    file = tmp_path / "raises.tsv"
    file.write_text(f"{names[0]}\t4\tlaunch\n{names[1]}\t8\tlaunch\n")
    assert saltctl("registry", "set", "--file", str(file), "--yes").code == 0
    with closing(HeatStream(own.settings)) as stream:
        stream.append_reports([HeatReport(names[2], "app-1", int(time.time()), 5_000)])
    assert saltctl("stream", "replay", "--dry-run").code == 0
    assert saltctl("stream", "replay").code == 0
    logged = [event.conversation_ids for event in EventsItem(BackupTable(own.settings)).read().events]
    assert [ids for ids in logged if names[0] in ids] == [(names[0], names[1])]
    assert len([ids for ids in logged if names[2] in ids]) == 1


def test_raises_of_repairs_and_of_an_import_are_named(
    saltctl: Runner, own: LocalEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event for each command, with a count of what it does not name; one that raises nothing adds none."""
    monkeypatch.setenv("SALTCTL_MAX_N_CAP", "16")  # an audit queries each of these partitions
    settings = own.settings
    discovered, audited, damaged, adopted = names = [f"conv-{uuid4().hex}" for _ in range(4)]
    behind, unreadable = (f"conv-{uuid4().hex}" for _ in range(2))
    many = [f"many-{uuid4().hex}" for _ in range(201)]
    file = tmp_path / "registry.jsonl"
    file.write_text("".join(json.dumps({"conversation_id": name, "max_n": 2}) + "\n" for name in many))
    messages, backup = MessagesTable(settings), BackupTable(settings)

    def spread(name: str) -> None:
        for number in range(40):
            messages.put(f"{name}#{salt_of(f'm{number}', 4)}", f"t#m{number}", {})

    spread(discovered)
    assert saltctl("registry", "discover", "--apply", "--yes").code in (0, 4)
    spread(audited)
    backup.client.put_item(TableName=backup.name, Item={"conversation_id": {"S": damaged}})
    with plain_client(own.redis) as client:
        client.hset(f"salt:r:{bucket_of(adopted, settings.buckets)}", adopted, 8)
        client.hset(f"salt:r:{bucket_of(unreadable, settings.buckets)}", unreadable, "many")
    entry = Raise(4, iso_utc(time.time()), "me", "hot")
    assert all(backup.restore(name, 4, entry, commit=True) for name in (behind, unreadable))
    for words in (
        f"history audit {audited} --repair --yes",
        f"history audit {damaged} --repair --yes",
        f"history audit {unreadable} --repair --yes",
        "compare --repair --adopt --yes",
        f"registry import {file} --yes",
        f"registry import {file} --yes",
    ):
        assert saltctl(*words.split()).code == 0, words
    logged = [event for event in EventsItem(backup).read().events if event.kind == "raise"]
    for name in names:
        assert len([event for event in logged if name in event.conversation_ids]) == 1, name
    (imported,) = [event for event in logged if set(many) & set(event.conversation_ids)]
    assert len(imported.conversation_ids) + imported.more == len(many)
    repaired = {
        event["conversation_id"]: event["detail"].partition(": ")[2]
        for event in saltctl("incident", "-o", "json").json["events"]
        if event["kind"] == "repaired"
    }
    assert repaired == {behind: "compare --repair", unreadable: "audit: damage repaired"}
