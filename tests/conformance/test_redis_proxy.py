"""The proxy takes whole commands and whole replies, of any type, and nothing that is cut off."""

from __future__ import annotations

import io
from typing import cast

import pytest

from saltctl.conformance.redis_proxy import read_command, read_reply


def stream(data: bytes) -> io.BufferedReader:
    """A stream of these bytes."""
    return io.BufferedReader(cast(io.RawIOBase, io.BytesIO(data)))


@pytest.mark.parametrize(
    "reply",
    [
        *(b"+OK\r\n", b"-ERR x\r\n", b":1\r\n", b"$-1\r\n", b"$0\r\n\r\n", b"$4\r\na\r\nb\r\n", b"*-1\r\n", b"*0\r\n"),
        *(b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(12345\r\n", b"=5\r\ntxt:a\r\n"),
        *(b"%1\r\n+a\r\n*1\r\n:1\r\n", b"~1\r\n:1\r\n", b""),
    ],
)
def test_a_reply_ends_where_it_ends(reply: bytes) -> None:
    """What follows is the next reply."""
    replies = stream(reply + b"+NEXT\r\n" * bool(reply))
    assert read_reply(replies) == reply
    assert read_reply(replies) == b"+NEXT\r\n" * bool(reply)


def test_a_command_is_an_array_of_strings() -> None:
    """Its words may have any bytes."""
    raw = b"*2\r\n$3\r\nGET\r\n$4\r\n\r\n\xff*\r\n"
    commands = stream(raw + raw)
    assert read_command(commands) == (raw, [b"GET", b"\r\n\xff*"])
    assert read_command(commands) == (raw, [b"GET", b"\r\n\xff*"])
    assert read_command(commands) is None


@pytest.mark.parametrize(
    "data",
    [
        *(b"GET x\r\n", b"*0\r\n", b"*99999999\r\n", b"*x\r\n", b"*1\r\n", b"*1\r\n:1\r\n", b"*1\r\n$-1\r\n"),
        *(b"*1\r\n$9999999\r\n", b"*1\r\n$3\r\nGE"),
    ],
)
def test_anything_else_ends_the_connection(data: bytes) -> None:
    """No client sends it, and nothing is read for ever."""
    with pytest.raises(ValueError, match=r"."):
        read_command(stream(data))
