"""The ways in: what each of them is fed, which commands look at it, and how these may end.

An entry point is a function of a world and Hypothesis' data; it draws one input and asserts about every command that
meets it. Exit codes are those that the command line's contract documents for such an input.
"""

from __future__ import annotations

import json
from binascii import crc32
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from saltctl.errors import InvalidConversationIdError
from saltctl.history.cursor import Cursor, Position, encode
from saltctl.salting import check_conversation_id, partition_key
from tests.fuzz.world import FORMATS, SECRET, World

EntryPoint = Callable[[World, st.DataObject], None]
TABLE = "saltctl-registry"

_NASTY = (
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
    "#layout",
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
TEXTS = st.lists(st.one_of(st.sampled_from(_NASTY), st.text(max_size=12)), min_size=0, max_size=4).map("".join)
# What a shell can hand over: no NUL, and bytes that are no UTF-8 as lone surrogates.
ARGUMENTS = st.one_of(
    TEXTS.map(lambda text: text.replace("\x00", "")),
    st.binary(max_size=12).map(lambda data: data.replace(b"\x00", b"").decode("utf-8", "surrogateescape")),
).filter(lambda text: "\x00" not in text)
NUMBERS = st.one_of(
    st.sampled_from(("0", "1", "-4", "3", "4", "8", "16", "1e3", "1.5", "9" * 38, "-0", "0.1")),
    st.integers(-(10**37), 10**37).map(str),
)


def _form(data: st.DataObject) -> tuple[str, str]:
    return "-o", data.draw(st.sampled_from(FORMATS))


def ids(world: World, data: st.DataObject) -> None:
    """Conversation ids and message ids, as arguments."""
    hostile, form = data.draw(ARGUMENTS), _form(data)
    # A leading dash makes an option of it, which is a usage error; behind -- it is an id.
    command, rest, allowed = data.draw(
        st.sampled_from(
            (
                (("registry", "get"), (), {0, 2, 6}),
                (("registry", "set"), (data.draw(st.one_of(NUMBERS, ARGUMENTS)),), {0, 2, 6}),
                (("history", "read"), (), {0, 2, 6}),
                (("history", "find"), (data.draw(ARGUMENTS),), {0, 2, 3, 6}),
            )
        )
    )
    options = ("--dry-run",) if command[1] == "set" else ()
    dashes = ("--",) if data.draw(st.booleans()) else ()
    outcome = world.checked([*command, *form, *options, *dashes, hostile, *rest], allowed)
    try:
        check_conversation_id(hostile)
    except InvalidConversationIdError:
        assert outcome.code in (2, 6), f"{hostile!r} was taken for an id"


TIMES = st.datetimes().map(lambda moment: f"{moment.isoformat()}Z#m")


def find(world: World, data: st.DataObject) -> None:
    """A message id of a conversation that there is."""
    world.checked(["history", "find", *_form(data), "--", "conv", data.draw(ARGUMENTS)], {2, 3})


def cursors(world: World, data: st.DataObject) -> None:
    """Cursors: any text, true ones of another kind, and true ones that were damaged."""
    salt = data.draw(st.integers(-(2**70), 2**70))
    # A sort key has at most 1,024 bytes (documented); a longer cursor is refused for its length.
    texts = TEXTS.filter(lambda text: 0 < len(text.encode("utf-8", "surrogatepass")) <= 1024)
    key = data.draw(st.one_of(texts, st.from_regex(r"[0-9]{1,20}(#m)?", fullmatch=True), TIMES))
    pace = data.draw(st.floats(0, allow_infinity=False))
    true = encode(Cursor(Position(key, salt), data.draw(st.integers(-1, 2**70)), pace), "conv")
    damaged = data.draw(st.integers(0, len(true) - 1))
    forged = true[:damaged] + data.draw(st.characters(min_codepoint=33, max_codepoint=126)) + true[damaged + 1 :]
    text = data.draw(st.one_of(ARGUMENTS, st.sampled_from((true, forged, true[:damaged], true + "A", "=" * 9))))
    way = data.draw(st.sampled_from(("--before", "--after")))
    outcome = world.checked(["history", "read", *_form(data), f"{way}={text}", "conv"], {0, 6})
    assert (outcome.code == 0) == (text == true), (
        f"the cursor {text!r} was {'taken' if outcome.code == 0 else 'refused'}"
    )


def settings_file(world: World, data: st.DataObject) -> None:
    """The configuration file: any bytes, and TOML of known keys with values of every kind."""
    names = st.sampled_from(
        ("redis_url", "buckets", "max_n_cap", "key_prefix", "aws_endpoint_url", "protected", "actor")
    )
    values = st.one_of(TEXTS, st.integers(), st.booleans(), st.floats(), st.just(f"redis://:{SECRET}@host:0/x"))
    table = data.draw(st.dictionaries(st.one_of(names, TEXTS), values, max_size=4))
    lines = [f"{_toml(name)} = {_toml(value)}" for name, value in table.items()]
    document = "\n".join(["default_context = 'it'", "[contexts.it]", *lines]).encode("utf-8", "surrogatepass")
    file = world.directory / "config.toml"
    file.write_bytes(data.draw(st.one_of(st.just(document), st.binary(max_size=80))))
    context = () if data.draw(st.booleans()) else ("--context", data.draw(ARGUMENTS))
    command = data.draw(st.sampled_from((("config", "show"), ("config", "path"))))
    world.checked(["--config", str(file), *context, *command, *_form(data)], {0, 2, 78})


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def environment(world: World, data: st.DataObject) -> None:
    """Environment variables, among them a URL that is no URL and has a password."""
    url = st.one_of(ARGUMENTS, ARGUMENTS.map(lambda text: f"redis://:{SECRET}{text}@[:::{text}"))
    names = st.sampled_from(
        ("SALTCTL_BUCKETS", "SALTCTL_KEY_PREFIX", "SALTCTL_ACTOR", "AWS_REGION", "AWS_ENDPOINT_URL")
    )
    variables = data.draw(st.dictionaries(names, ARGUMENTS, max_size=3))
    if data.draw(st.booleans()):
        variables["SALTCTL_REDIS_URL"] = data.draw(url)
    command = data.draw(st.sampled_from((("config", "show"), ("config", "path"))))
    world.checked([*command, *_form(data)], {0, 78}, variables=variables)


def backup_items(world: World, data: st.DataObject) -> None:
    """Items of the backup table that somebody wrote by hand."""
    value = st.one_of(
        NUMBERS.map(lambda n: {"N": n}),
        TEXTS.map(lambda s: {"S": s}),
        st.just({"NULL": True}),
        st.binary(max_size=4).map(lambda b: {"B": b}),
        st.lists(TEXTS.map(lambda s: {"M": {"n": {"S": s}, "reason": {"S": s}, "by": {"S": s}}}), max_size=2).map(
            lambda notes: {"L": notes}
        ),
    )
    item_id = data.draw(TEXTS.filter(bool))
    item = data.draw(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("max_n", "write_n", "raises", "updated_at"), value))
    )
    if item_id in ("#lease", "#layout") or len(item_id.encode("utf-8", "surrogatepass")) > 2000:
        return  # the first two are saltctl's own
    try:
        world.dynamodb.put_item(TableName=TABLE, Item={"conversation_id": {"S": item_id}, **item})
    except Exception:
        return  # DynamoDB would not hold it either
    try:
        form = _form(data)
        command, allowed = data.draw(
            st.sampled_from(
                (
                    (["registry", "get", *form, "--", item_id], {0, 2, 6, 78}),
                    (["registry", "list", *form, "--source", "backup"], {0}),
                    (["registry", "export", "--source", "backup"], {0, 4}),
                    (["rebuild", *form, "--dry-run"], {0, 4}),
                    (["compare", *form], {0, 3, 4}),
                )
            )
        )
        if "\x00" not in item_id:
            world.checked(command, allowed)
    finally:
        world.dynamodb.delete_item(TableName=TABLE, Key={"conversation_id": {"S": item_id}})


def redis_entries(world: World, data: st.DataObject) -> None:
    """Fields and values of a bucket in Redis that somebody wrote by hand."""
    name = data.draw(st.one_of(TEXTS.map(lambda t: t.encode("utf-8", "surrogatepass")), st.binary(max_size=8)))
    if name in (b"#fence", b"#rebuild", b"conv"):
        return
    value = data.draw(st.one_of(NUMBERS.map(str.encode), st.binary(max_size=8)))
    key = f"salt:r:{crc32(name) % 16}"
    world.redis.hset(key, name, value)
    try:
        form, shown = _form(data), name.decode("utf-8", "surrogateescape")
        command = data.draw(
            st.sampled_from((["registry", "list", *form, "--source", "redis"], ["compare", *form], ["registry", "get"]))
        )
        if command == ["registry", "get"]:
            command = [*command, *form, "--", shown]
        if not any("\x00" in word for word in command):
            world.checked(command, {0, 3, 4, 6, 69})
    finally:
        world.redis.hdel(key, name)


def stream_entries(world: World, data: st.DataObject) -> None:
    """Entries of the heat stream, which everybody can add to who has its password."""
    names = st.one_of(
        st.sampled_from((b"v", b"conversation_id", b"server", b"window", b"writes", b"throttled_n")),
        st.binary(max_size=6),
    )
    values = st.one_of(
        st.sampled_from((b"1", b"conv", b"-1", b"9" * 30, b"1e9", b"\x1b[2J")),
        st.binary(max_size=12),
        TEXTS.map(lambda t: t.encode("utf-8", "surrogatepass")),
    )
    entry = data.draw(st.dictionaries(names, values, min_size=1, max_size=8))
    if data.draw(st.booleans()):  # all that a report has, but for one field that is hostile
        entry = {b"v": b"1", b"conversation_id": b"conv", b"server": b"s", b"window": b"1", b"writes": b"5", **entry}
    world.redis.xadd("salt:heat", entry)
    form = _form(data)
    world.checked(["stream", "peek", *form], {0})
    world.checked(["stream", "replay", *form], {0})
    world.checked(["stream", "dead", "list", *form], {0})
    world.redis.xtrim("salt:heat", maxlen=0)
    world.redis.delete("salt:heat:dead")


def messages(world: World, data: st.DataObject) -> None:
    """Messages as other programs may have stored them."""
    scalar = st.one_of(
        TEXTS.map(lambda s: {"S": s}),
        NUMBERS.map(lambda n: {"N": n}),
        st.binary(max_size=8).map(lambda b: {"B": b}),
        st.booleans().map(lambda b: {"BOOL": b}),
        st.just({"NULL": True}),
        st.lists(TEXTS.filter(bool), min_size=1, max_size=3, unique=True).map(lambda texts: {"SS": texts}),
    )
    value = st.recursive(
        scalar,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3).map(lambda items: {"L": items}),
            st.dictionaries(TEXTS.filter(bool), inner, max_size=3).map(lambda items: {"M": items}),
        ),
        max_leaves=6,
    )
    names = st.one_of(st.sampled_from(("text", "sender", "message_id", "timestamp")), TEXTS.filter(bool))
    item = data.draw(st.dictionaries(names, value, max_size=4))
    keys = {
        "conversation_id": {"S": partition_key("conv", data.draw(st.integers(0, 3)))},
        "sort_key": {"S": data.draw(TEXTS.filter(bool))},
    }
    try:
        world.dynamodb.put_item(TableName="messages", Item={**item, **keys})
    except Exception:
        return  # DynamoDB would not hold it either
    try:
        form = _form(data)
        world.checked(["history", "read", *form, "conv"], {0})
        world.checked(["history", "audit", *form, "conv"], {0, 3})
    finally:
        world.dynamodb.delete_item(TableName="messages", Key=keys)


def imports(world: World, data: st.DataObject) -> None:
    """Lines that are to be imported."""
    record = st.fixed_dictionaries(
        {},
        optional={
            "conversation_id": st.one_of(TEXTS, st.integers()),
            "max_n": st.one_of(st.integers(), TEXTS, st.floats()),
        },
    )
    lines = st.one_of(record.map(lambda r: json.dumps(r).encode()), st.binary(max_size=30), st.just(b"[" * 5000))
    file = world.directory / "import.jsonl"
    file.write_bytes(b"\n".join(data.draw(st.lists(lines, max_size=4))))
    world.checked(["registry", "import", *_form(data), "--dry-run", str(file)], {0, 4})


def arguments(world: World, data: st.DataObject) -> None:
    """Any words after a command that only looks."""
    command = data.draw(
        st.sampled_from(
            (
                ("registry", "get"),
                ("registry", "list"),
                ("registry", "set"),
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
    world.checked([*command, *data.draw(st.lists(words, max_size=4))], {0, 2, 3, 6, 78})


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
