"""``saltctl registry discover --from-export`` and ``--sql``: output, refusals and exit codes."""

from __future__ import annotations

import shlex
from pathlib import Path
from uuid import uuid4

import pytest

from saltctl.registry.export.query import salts_query
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.exports import ACCOUNT, EXPORT_ID, rows_of, write_export

ROWS = {"a": rows_of("hot", 16, 100), "b": [*rows_of("warm", 2, 40), *rows_of("cold", 1, 3)]}
DISCOVER = ("registry", "discover", "--from-export")


@pytest.fixture
def messages(configured: Settings, registry: Registry, rebuild: Rebuilder) -> str:
    """Create a messages table, which stays empty, and verify Redis."""
    rebuild()
    MessagesTable(configured).create()
    return configured.messages_table


def test_an_export_in_s3_recovers_a_registry(
    saltctl: Runner, messages: str, configured: Settings, registry: Registry, tmp_path: Path
) -> None:
    """The keys and exit codes are those of a scan; ``--apply`` raises what the export shows."""
    export = write_export(tmp_path / "export", ROWS, messages)
    client, bucket = create_client(configured, "s3"), f"bucket-{uuid4().hex}"
    client.create_bucket(Bucket=bucket)
    for path in export.rglob("*.*"):
        key = f"nov/AWSDynamoDB/{EXPORT_ID}/{path.relative_to(export)}"
        client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    url, kept = f"s3://{bucket}/nov/AWSDynamoDB/{EXPORT_ID}/", str(tmp_path / "kept")
    found = saltctl(*DISCOVER, url, "--checkpoint", kept, "-o", "json")
    assert (found.code, found.json["items"], found.json["behind"]) == (3, 143, 2)
    assert (found.json["consumed_rcu"], found.json["dry_run"]) == (0.0, False)
    assert f"table/{messages}: 143 items, as of 2026-11-04T07:28:34.028Z; later writes are not in it" in found.told
    applied = saltctl(*DISCOVER, url, "--checkpoint", kept, "--apply", "--yes", "-o", "json")
    assert (applied.code, applied.json["raised"]) == (0, 2)
    assert "resuming from the checkpoint: 2 files, 143 items" in applied.told
    assert {i: entry.max_n for i, entry in registry.backup.get_many(["hot", "warm"]).items()} == {"hot": 16, "warm": 2}
    assert sorted(path.name for path in tmp_path.glob("kept*")) == ["kept", "kept.lock"]


def test_a_damaged_file_ends_without_a_result(saltctl: Runner, messages: str, tmp_path: Path) -> None:
    """Exit 4, nothing on stdout, and the hint is the command to run again once it is mended."""
    export = write_export(tmp_path / "export", ROWS, messages)
    file, kept = export / "data" / "b.json.gz", tmp_path / "kept"
    content = file.read_bytes()
    file.write_bytes(content[:-9])
    words = (*DISCOVER, str(export), "--checkpoint", str(kept))
    damaged = saltctl(*words, "-o", "json")
    assert (damaged.code, damaged.out, damaged.error["code"]) == (4, "", "incomplete")
    assert "damaged: data/b.json.gz: its MD5 is not the one in the manifest" in damaged.err
    assert ["warning" in line for line in damaged.err.splitlines() if "damaged: data" in line] == [True]
    assert "copy the damaged files again" in damaged.error["hint"]
    command = shlex.split(damaged.error["hint"].splitlines()[-1])
    assert command[:4] == ["saltctl", *words[:3]]
    file.write_bytes(content)
    mended = saltctl(*command[1:])
    assert (mended.code, mended.json["items"]) == (3, 143)
    assert "resuming from the checkpoint: 1 file, 100 items" in mended.told


@pytest.mark.parametrize("account", [ACCOUNT, ACCOUNT.replace("us-east-1", "eu-west-1"), ACCOUNT.replace("12", "99")])
@pytest.mark.parametrize("table", ["", "other"])
def test_an_export_of_another_table_has_to_be_named(
    saltctl: Runner, messages: str, registry: Registry, tmp_path: Path, account: str, table: str
) -> None:
    """``--yes`` answers the question about the raise alone. A name is enough in the same account and Region."""
    arn = f"{account}/{table or messages}"
    arns = {"tableArn": arn, "exportArn": f"{arn}/export/{EXPORT_ID}"}
    command = [*DISCOVER, str(write_export(tmp_path / "export", ROWS, **arns)), "--apply", "--yes", "-o", "json"]
    if own := account == ACCOUNT and not table:
        command += ["--from-table", "other"]
    refused = saltctl(*command)
    assert (refused.code, refused.error["code"], refused.out) == (6, "refused", "")
    assert f"the export is of table '{arn}', and not of '" in refused.error["message"]
    assert ("--from-table" in refused.error["hint"], "dry-run" in refused.err) == (True, False)
    by_name = saltctl(*command, "--from-table", table or messages)
    assert by_name.code == (0 if account == ACCOUNT else 6)
    assert registry.backup.get_many(["hot"]) == {} or by_name.code == 0
    words = [*command, "--from-table", arn] if own else shlex.split(refused.error["hint"].splitlines()[-1])[1:]
    assert saltctl(*words).code == 0
    assert registry.backup.get_many(["hot"])["hot"].max_n == 16
    assert saltctl(*command, "--from-table", f"{arn}s").code == 6


def test_each_cause_has_its_own_advice(
    saltctl: Runner, messages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--any-salting is for writers with another rule, and not for ids that were not found or for few messages."""
    url = str(write_export(tmp_path / "export", {"a": rows_of("few", 4, 3), "b": rows_of("hot", 16, 100)}, messages))
    shown = saltctl(*DISCOVER, url)
    assert "'few': 3 rows are too few to show that the key has a salt: it needs about " in shown.err
    assert "try: saltctl registry set few 4" in shown.err
    monkeypatch.setenv("SALTCTL_MESSAGE_ID_FROM", "attribute:nope")
    without = saltctl(*DISCOVER, url)
    assert "such as 'few': rows without a message id: 3 of 3. Message ids are read from the attribute" in without.err
    assert [name in without.err for name in ("'nope'", "SALTCTL_MESSAGE_ID_FROM", "registry set")] == [
        True,
        True,
        False,
    ]
    assert "--any-salting" not in shown.err + without.err


def test_an_account_that_is_not_known_is_a_warning(
    saltctl: Runner, messages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name alone is compared."""
    monkeypatch.setattr(MessagesTable, "arn", lambda self: "")
    shown = saltctl(*DISCOVER, str(write_export(tmp_path / "export", ROWS, messages)))
    assert (shown.code, f"shows no ARN of table '{messages}'" in shown.err) == (3, True)


def test_the_query_is_printed_for_the_keys_of_the_table(
    saltctl: Runner, messages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An import takes its result as Athena writes it."""
    with monkeypatch.context() as patched:
        patched.delenv("SALTCTL_REDIS_URL")
        shown = saltctl("registry", "discover", "--sql", "--sql-table", "lake.messages")
    assert (shown.code, shown.out) == (0, salts_query("conversation_id", "lake.messages"))
    (result := tmp_path / "result.csv").write_text('"conversation_id","max_n","highest_salt"\n"=hot","16","12"\n')
    assert saltctl("registry", "import", str(result), "--yes", "-o", "json").json["raised"] == 1


def test_an_endpoint_of_s3_that_is_down_is_named(
    saltctl: Runner, messages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The doctor and the other endpoint are those of DynamoDB."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    down = saltctl(*DISCOVER, "s3://bucket/x/", "-o", "json")
    assert (down.code, "doctor" in down.err) == (69, False)
    assert "AWS_ENDPOINT_URL_S3; check the URL of the export" in down.error["hint"]


OPTIONS: list[tuple[str, str]] = [
    ("--from-export . --cost", "--from-export scans no table: it cannot take --cost"),
    ("--from-export . --eventual", "cannot take --eventual"),
    ("--from-export . --segments 2", "cannot take --segments"),
    ("--from-export . --restart", "--restart needs a --checkpoint"),
    ("--from-export . --sql", "--sql reads no export"),
    ("--checkpoint x", "--checkpoint needs --from-export"),
    ("--restart", "--restart needs --from-export"),
    ("--from-table x", "--from-table needs --from-export"),
    ("--sql-table x", "--sql-table needs --sql"),
    ("--sql --apply", "--sql only prints a query: it cannot take --apply"),
    ("--sql --sql-table a-b", "has to be quoted in SQL"),
    ("--from-export .", "'.' is not a complete export: it has no manifest-summary.json"),
    ("--from-export ./none", "it is no directory"),
    ("--from-export https://bucket/x", "its URL does not begin with s3://"),
    ("--from-export S3://bucket/x", "its URL does not begin with s3://"),
    ("--from-export s3://bucket/x/manifest-summary.json", "is a file of an export"),
    ("--from-export s3://B", "is not the URL of an export"),
]


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(("options", "problem"), OPTIONS)
def test_options_that_have_no_effect_are_refused(
    saltctl: Runner, options: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2."""
    monkeypatch.chdir(tmp_path)
    refused = saltctl("registry", "discover", *options.split(), "-o", "json")
    assert (refused.code, refused.out) == (2, "")
    assert problem in refused.error["message"]
