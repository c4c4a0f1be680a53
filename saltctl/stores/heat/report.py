"""Heat reports: one server's write count for one conversation in one window, and its fields on the stream.

Any client with the Redis password can add entries to the stream. :func:`parse` therefore validates every field and
raises an error with the reason if an entry is not a valid report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from saltctl.errors import InvalidConversationIdError
from saltctl.salting import check_conversation_id

VERSION = 1
WINDOW_SECONDS = 1
"""Length of a window. Windows begin at whole seconds since the epoch, on every server."""
MAX_WRITES = 10_000_000
"""Limit for the write units of one server in one window: far above the throughput of one process."""
MAX_THROTTLED_N = 65_536
MAX_SERVER_BYTES = 255
MAX_FIELDS = 16
MAX_ENTRY_BYTES = 4096
MAX_AHEAD = 60.0
"""Seconds by which a reporting server's clock may be ahead of the reader's clock."""
_USUAL_NAMES = [b"v", b"conversation_id", b"server", b"window", b"writes"]


class BadReportError(ValueError):
    """An entry of the stream is not a valid heat report. The message is the reason, for the dead letters."""


class HeatReport(NamedTuple):
    """One server's count. A later report of the same conversation, window and server replaces it.

    ``window`` is the start of the window in seconds since the epoch. ``writes`` are write units. ``throttled_n``
    is 0, or the number of salts that were too few: DynamoDB throttled the key range of a write spread over them.
    """

    conversation_id: str
    server: str
    window: int
    writes: int
    throttled_n: int = 0

    def fields(self) -> tuple[str | int, ...]:
        """Return the arguments of XADD: the names and values of all fields."""
        conversation, server, window, writes, n = self
        fields = ("v", VERSION, "conversation_id", conversation, "server", server, "window", window, "writes", writes)
        return (*fields, "throttled_n", n) if n else fields


def parse(flat: Sequence[bytes], now: float) -> HeatReport:
    """Parse the fields of an entry: name, value, name, value … Fields that are unknown in version 1 are ignored.

    Raises:
        BadReportError: the entry is not a valid report; the message is the reason.
    """
    if len(flat) > 2 * MAX_FIELDS:
        raise BadReportError(f"{len(flat) // 2} fields: at most {MAX_FIELDS} are allowed")
    if (size := len(b"".join(flat))) > MAX_ENTRY_BYTES:
        raise BadReportError(f"{size} bytes: at most {MAX_ENTRY_BYTES} are allowed")
    try:
        id_bytes, server_bytes, window_digits, writes_digits, n_digits = _values(flat)
        conversation_id = check_conversation_id(id_bytes.decode())
        server = server_bytes.decode()
        window = _whole_number("window", window_digits)
        writes = _whole_number("writes", writes_digits)
        throttled_n = 0 if n_digits is None else _whole_number("throttled_n", n_digits)
    except UnicodeDecodeError:
        raise BadReportError("a string that is not UTF-8") from None
    except InvalidConversationIdError as exc:
        raise BadReportError(exc.message) from None
    if not server or len(server) > MAX_SERVER_BYTES:
        raise BadReportError(f"the server name has {len(server)} characters: 1 to {MAX_SERVER_BYTES} are allowed")
    if writes > MAX_WRITES:
        raise BadReportError(f"{writes} writes in one window: at most {MAX_WRITES} are possible")
    if throttled_n > MAX_THROTTLED_N:
        raise BadReportError(f"throttled at N {throttled_n}: at most {MAX_THROTTLED_N} is possible")
    if window > now + MAX_AHEAD:
        raise BadReportError(f"the window is {window - now:.0f} s in the future: check the clock of that server")
    # The constructor of a named tuple takes twice as long (measured).
    return tuple.__new__(HeatReport, (conversation_id, server, window, writes, throttled_n))


def _values(flat: Sequence[bytes]) -> tuple[bytes, bytes, bytes, bytes, bytes | None]:
    """Return the values of the conversation id, server, window, writes, and throttled_n (None without that field)."""
    # Most reports are as HeatReport.fields writes them. A dictionary would take a quarter of the parsing (measured).
    if flat[::2] == _USUAL_NAMES and flat[1] == b"1" and len(flat) == 2 * len(_USUAL_NAMES):
        _, _, _, conversation, _, server, _, window, _, writes = flat
        return conversation, server, window, writes, None
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    version = fields.get(b"v")
    if version != b"1":
        raise BadReportError("no version" if version is None else f"unknown version {_quoted(version)}")
    try:
        conversation, server, window, writes = (fields[name] for name in _USUAL_NAMES[1:])
    except KeyError as exc:
        raise BadReportError(f"no field {exc.args[0].decode()}") from None
    return conversation, server, window, writes, fields.get(b"throttled_n")


def _whole_number(name: str, value: bytes) -> int:
    if not value.isdigit() or len(value) > 12:
        raise BadReportError(f"{name} is not a whole number: {_quoted(value)}")
    return int(value)


def _quoted(value: bytes) -> str:
    return repr(value[:40].decode("utf-8", "backslashreplace"))
