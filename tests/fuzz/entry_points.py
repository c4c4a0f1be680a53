"""The entry points: the kinds of hostile input, the commands that read each, and their allowed exit codes.

An entry point is a function of a command runner and Hypothesis' data. It draws one input and checks every command that
reads it. The allowed exit codes are those that the contract of the command line documents for such an input.
"""

from __future__ import annotations

import json
from binascii import crc32
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from saltctl.errors import InvalidConversationIdError
from saltctl.history.pages.cursor import MAX_ID, Cursor, Position, encode
from saltctl.salting import check_conversation_id, partition_key
from tests.fuzz.command_runner import FORMATS, SECRET, CommandRunner

EntryPoint = Callable[[CommandRunner, st.DataObject], None]
TABLE = "saltctl-registry"

_HOSTILE = (
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "[/]",
    "[bold red]",
    "\u202egnp.exe",
    "\u2066\u2069",
    "\u200b",
    "#",
    "#lease",
    "#registry",
    "#checkpoint",
    "\n",
    "\r",
    "\t",
    "\x7f",
    "\\",
    "'\"",
    "=1+1",
    "-1",
    "@x",
    "{}%s%n",
    "../../etc",
    "\ufeff",
    "\U0001f468\u200d\U0001f469",
    "\u0301" * 5,
    "x" * 2001,
)
STRINGS = st.lists(st.one_of(st.sampled_from(_HOSTILE), st.text(max_size=12)), min_size=0, max_size=4).map("".join)
# Arguments that a shell can pass: without NUL, and with lone surrogates for bytes that are not UTF-8.
ARGUMENTS = st.one_of(
    STRINGS.map(lambda string: string.replace("\x00", "")),
    st.binary(max_size=12).map(lambda data: data.replace(b"\x00", b"").decode("utf-8", "surrogateescape")),
).filter(lambda string: "\x00" not in string)
NUMBERS = st.one_of(
    st.sampled_from(("0", "1", "-4", "3", "4", "8", "16", "1e3", "1.5", "9" * 38, "-0", "0.1")),
    st.integers(-(10**37), 10**37).map(str),
)


def _output_option(data: st.DataObject) -> tuple[str, str]:
    return "-o", data.draw(st.sampled_from(FORMATS))


def ids(runner: CommandRunner, data: st.DataObject) -> None:
    """Pass conversation ids and message ids as arguments."""
    hostile, output = data.draw(ARGUMENTS), _output_option(data)
    # An argument with a leading dash is an option, and so a usage error, unless it follows --.
    command, rest, allowed = data.draw(
        st.sampled_from(
            (
                (("registry", "get"), (), {0, 2, 6}),
                (("registry", "set"), (data.draw(st.one_of(NUMBERS, ARGUMENTS)),), {0, 2, 6}),
                (("registry", "cool"), (data.draw(ARGUMENTS),), {0, 2, 4, 6}),
                (("history", "read"), (), {0, 2, 6}),
                (("history", "find"), (data.draw(ARGUMENTS),), {0, 2, 3, 6}),
            )
        )
    )
    options = ("--dry-run",) if command[1] in ("set", "cool") else ()
    dashes = ("--",) if data.draw(st.booleans()) else ()
    outcome = runner.run_checked([*command, *output, *options, *dashes, hostile, *rest], allowed)
    try:
        check_conversation_id(hostile)
    except InvalidConversationIdError:
        assert outcome.code in (2, 6), f"the command accepted {hostile!r} as an id"


TIMES = st.datetimes().map(lambda moment: f"{moment.isoformat()}Z#m")


def find(runner: CommandRunner, data: st.DataObject) -> None:
    """Search for message ids in an existing conversation."""
    runner.run_checked(["history", "find", *_output_option(data), "--", "conv", data.draw(ARGUMENTS)], {2, 3})


def cursors(runner: CommandRunner, data: st.DataObject) -> None:
    """Pass cursors: random strings, valid ones, and valid ones that were damaged."""
    salt = data.draw(st.integers(-(2**70), 2**70))
    # A sort key has at most 1,024 bytes (documented); a longer cursor is refused for its length.
    strings = STRINGS.filter(lambda string: 0 < len(string.encode("utf-8", "surrogatepass")) <= 1024)
    key = data.draw(st.one_of(strings, st.from_regex(r"[0-9]{1,20}(#m)?", fullmatch=True), TIMES))
    distance = data.draw(st.floats(0, allow_infinity=False))
    tie = data.draw(st.none() | st.tuples(strings.filter(lambda text: len(text) <= MAX_ID), st.just("f" * 32)))
    valid = encode(Cursor(Position(key, salt, tie), data.draw(st.integers(-1, 2**70)), distance), "conv")
    damaged = data.draw(st.integers(0, len(valid) - 1))
    forged = valid[:damaged] + data.draw(st.characters(min_codepoint=33, max_codepoint=126)) + valid[damaged + 1 :]
    cursor = data.draw(st.one_of(ARGUMENTS, st.sampled_from((valid, forged, valid[:damaged], valid + "A", "=" * 9))))
    option = data.draw(st.sampled_from(("--before", "--after")))
    outcome = runner.run_checked(["history", "read", *_output_option(data), f"{option}={cursor}", "conv"], {0, 6})
    assert (outcome.code == 0) == (cursor == valid), (
        f"the command {'accepted' if outcome.code == 0 else 'refused'} the cursor {cursor!r}"
    )


def settings_file(runner: CommandRunner, data: st.DataObject) -> None:
    """Write configuration files: random bytes, and TOML of known keys with values of all types."""
    names = st.sampled_from(
        ("redis_url", "buckets", "max_n_cap", "key_prefix", "aws_endpoint_url", "protected", "actor")
    )
    values = st.one_of(STRINGS, st.integers(), st.booleans(), st.floats(), st.just(f"redis://:{SECRET}@host:0/x"))
    table = data.draw(st.dictionaries(st.one_of(names, STRINGS), values, max_size=4))
    lines = [f"{_toml(name)} = {_toml(value)}" for name, value in table.items()]
    document = "\n".join(["default_context = 'it'", "[contexts.it]", *lines]).encode("utf-8", "surrogatepass")
    file = runner.directory / "config.toml"
    file.write_bytes(data.draw(st.one_of(st.just(document), st.binary(max_size=80))))
    context = () if data.draw(st.booleans()) else ("--context", data.draw(ARGUMENTS))
    command = data.draw(st.sampled_from((("config", "show"), ("config", "path"))))
    runner.run_checked(["--config", str(file), *context, *command, *_output_option(data)], {0, 2, 78})


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def environment(runner: CommandRunner, data: st.DataObject) -> None:
    """Set environment variables, among them an invalid URL with a password."""
    url = st.one_of(ARGUMENTS, ARGUMENTS.map(lambda string: f"redis://:{SECRET}{string}@[:::{string}"))
    names = st.sampled_from(
        ("SALTCTL_BUCKETS", "SALTCTL_KEY_PREFIX", "SALTCTL_ACTOR", "AWS_REGION", "AWS_ENDPOINT_URL")
    )
    variables = data.draw(st.dictionaries(names, ARGUMENTS, max_size=3))
    if data.draw(st.booleans()):
        variables["SALTCTL_REDIS_URL"] = data.draw(url)
    command = data.draw(st.sampled_from((("config", "show"), ("config", "path"))))
    runner.run_checked([*command, *_output_option(data)], {0, 78}, variables=variables)


def backup_items(runner: CommandRunner, data: st.DataObject) -> None:
    """Put items into the backup table, as if written by hand."""
    value = st.one_of(
        NUMBERS.map(lambda n: {"N": n}),
        STRINGS.map(lambda s: {"S": s}),
        st.just({"NULL": True}),
        st.binary(max_size=4).map(lambda b: {"B": b}),
        st.lists(STRINGS.map(lambda s: {"M": {"n": {"S": s}, "reason": {"S": s}, "by": {"S": s}}}), max_size=2).map(
            lambda notes: {"L": notes}
        ),
    )
    item_id = data.draw(STRINGS.filter(bool))
    item = data.draw(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("max_n", "write_n", "raises", "updated_at"), value))
    )
    if item_id in ("#lease", "#registry", "#checkpoint") or len(item_id.encode("utf-8", "surrogatepass")) > 2000:
        return  # saltctl uses these ids, and DynamoDB refuses long ones
    try:
        runner.dynamodb.put_item(TableName=TABLE, Item={"conversation_id": {"S": item_id}, **item})
    except Exception:
        return  # DynamoDB would refuse it as well
    try:
        output = _output_option(data)
        command, allowed = data.draw(
            st.sampled_from(
                (
                    (["registry", "get", *output, "--", item_id], {0, 2, 4, 6}),
                    (["history", "audit", *output, "--repair", "--yes", "--", item_id], {0, 2, 3, 6, 78}),
                    (["registry", "list", *output, "--source", "backup"], {0, 4}),
                    (["registry", "export", "--source", "backup"], {0, 4}),
                    (["rebuild", *output, "--dry-run"], {0, 4}),
                    (["compare", *output], {0, 3, 4}),
                )
            )
        )
        if "\x00" not in item_id:
            runner.run_checked(command, allowed)
    finally:
        runner.dynamodb.delete_item(TableName=TABLE, Key={"conversation_id": {"S": item_id}})


def redis_entries(runner: CommandRunner, data: st.DataObject) -> None:
    """Put fields into a bucket in Redis, as if written by hand."""
    name = data.draw(st.one_of(STRINGS.map(lambda t: t.encode("utf-8", "surrogatepass")), st.binary(max_size=8)))
    if name in (b"#fence", b"#rebuild", b"conv"):
        return
    value = data.draw(st.one_of(NUMBERS.map(str.encode), st.binary(max_size=8)))
    key = f"salt:r:{crc32(name) % 16}"
    runner.redis.hset(key, name, value)
    try:
        output, shown = _output_option(data), name.decode("utf-8", "surrogateescape")
        command = data.draw(
            st.sampled_from(
                (["registry", "list", *output, "--source", "redis"], ["compare", *output], ["registry", "get"])
            )
        )
        if command == ["registry", "get"]:
            command = [*command, *output, "--", shown]
        if not any("\x00" in word for word in command):
            runner.run_checked(command, {0, 3, 4, 6, 69})
    finally:
        runner.redis.hdel(key, name)


def stream_entries(runner: CommandRunner, data: st.DataObject) -> None:
    """Add entries to the heat stream, as any client with the password of Redis can."""
    names = st.one_of(
        st.sampled_from((b"v", b"conversation_id", b"server", b"window", b"writes", b"throttled_n", b"reports")),
        st.binary(max_size=6),
    )
    values = st.one_of(
        st.sampled_from((b"1", b"2", b"conv", b"-1", b"9" * 30, b"1e9", b"\x1b[2J", b'[["\\u001b[2J",1]]')),
        st.recursive(st.one_of(STRINGS, st.integers()), st.lists, max_leaves=6).map(
            lambda rows: json.dumps(rows).encode()
        ),
        st.binary(max_size=12),
        STRINGS.map(lambda t: t.encode("utf-8", "surrogatepass")),
    )
    entry = data.draw(st.dictionaries(names, values, min_size=1, max_size=8))
    if data.draw(st.booleans()):  # a complete report with hostile fields
        entry = {b"v": b"1", b"conversation_id": b"conv", b"server": b"s", b"window": b"1", b"writes": b"5", **entry}
    if data.draw(st.booleans()):  # one of several reports
        entry = {b"v": b"2", b"server": b"s", b"window": b"1", b"reports": b'[["conv",5]]', **entry}
    runner.redis.xadd("salt:heat", entry)
    output = _output_option(data)
    runner.run_checked(["stream", "peek", *output], {0})
    runner.run_checked(["stream", "replay", *output], {0})
    runner.run_checked(["stream", "dead", "list", *output], {0})
    runner.redis.xtrim("salt:heat", maxlen=0)
    runner.redis.delete("salt:heat:dead")


def messages(runner: CommandRunner, data: st.DataObject) -> None:
    """Put messages with hostile attributes, as other programs may have stored them."""
    scalar = st.one_of(
        STRINGS.map(lambda s: {"S": s}),
        NUMBERS.map(lambda n: {"N": n}),
        st.binary(max_size=8).map(lambda b: {"B": b}),
        st.booleans().map(lambda b: {"BOOL": b}),
        st.just({"NULL": True}),
        st.lists(STRINGS.filter(bool), min_size=1, max_size=3, unique=True).map(lambda strings: {"SS": strings}),
    )
    value = st.recursive(
        scalar,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: {"L": items}),
            st.dictionaries(STRINGS.filter(bool), inner, max_size=3).map(lambda items: {"M": items}),
        ),
        max_leaves=6,
    )
    names = st.one_of(st.sampled_from(("text", "sender", "message_id", "timestamp")), STRINGS.filter(bool))
    item = data.draw(st.dictionaries(names, value, max_size=4))
    keys = {
        "conversation_id": {"S": partition_key("conv", data.draw(st.integers(0, 3)))},
        "sort_key": {"S": data.draw(STRINGS.filter(bool))},
    }
    try:
        runner.dynamodb.put_item(TableName="messages", Item={**item, **keys})
    except Exception:
        return  # DynamoDB would refuse it as well
    try:
        output = _output_option(data)
        runner.run_checked(["history", "read", *output, "conv"], {0})
        runner.run_checked(["history", "audit", *output, "conv"], {0, 3})
    finally:
        runner.dynamodb.delete_item(TableName="messages", Key=keys)


def imports(runner: CommandRunner, data: st.DataObject) -> None:
    """Write files to import."""
    record = st.fixed_dictionaries(
        {},
        optional={
            "conversation_id": st.one_of(STRINGS, st.integers()),
            "max_n": st.one_of(st.integers(), STRINGS, st.floats()),
        },
    )
    lines = st.one_of(record.map(lambda r: json.dumps(r).encode()), st.binary(max_size=30), st.just(b"[" * 5000))
    file = runner.directory / "import.jsonl"
    first = data.draw(st.sampled_from([b"conversation_id\tmax_n", b'{"conversation_id": "a", "max_n": 2}', b""]))
    file.write_bytes(b"\n".join([first, *data.draw(st.lists(lines, max_size=4))]))
    runner.run_checked(["registry", "import", *_output_option(data), "--dry-run", str(file)], {0, 2, 4})


def arguments(runner: CommandRunner, data: st.DataObject) -> None:
    """Pass random arguments to commands."""
    command = data.draw(
        st.sampled_from(
            (
                ("registry", "get"),
                ("registry", "list"),
                ("registry", "set"),
                ("registry", "cool"),
                ("history", "read"),
                ("history", "find"),
                ("stream", "peek"),
                ("stream", "dead", "requeue"),
                ("service", "emit"),
                ("rebuild", "--dry-run"),
                ("compare",),
                ("config", "show"),
                ("completion",),
                (),
            )
        )
    )
    words = st.one_of(
        ARGUMENTS,
        st.sampled_from(
            ("--limit", "--sort", "--from", "--since", "-o", "--output=json", "--help", "--sample", "--", "--segments")
        ),
    )
    runner.run_checked([*command, *data.draw(st.lists(words, max_size=4))], {0, 2, 3, 6, 78})


ENTRY_POINTS: dict[str, EntryPoint] = {
    point.__name__: point
    for point in (
        ids,
        find,
        cursors,
        settings_file,
        environment,
        backup_items,
        redis_entries,
        stream_entries,
        messages,
        imports,
        arguments,
    )
}
