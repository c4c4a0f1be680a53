"""Heat reports: one server's write count for one conversation in one window, and its fields on the stream.

An entry of version 1 has one report. One of version 2 has several reports of one server and window as JSON, since
most of the time that a report takes in Redis and in the service is spent for its entry.

Any client with the Redis password can add entries to the stream. :func:`parse` therefore validates every field and
raises an error with the reason if an entry does not consist of valid reports.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import groupby
from typing import Annotated, Any, NamedTuple

from saltctl.errors import InvalidConversationIdError
from saltctl.forks import importing
from saltctl.salting import check_conversation_id

VERSION, SEVERAL = 1, 2
"""The versions of an entry with one report, and of one with several."""
MAX_REPORTS = 20
"""Limit for the reports of one entry. With 20 it takes less than a tenth of the time of its reports (measured)."""
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
_Row = tuple[str, int, int]
"""The conversation id, the write units and ``throttled_n`` of one report."""


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
        """Return the arguments of XADD for an entry with this report: the names and values of all fields."""
        conversation, server, window, writes, n = self
        fields = ("v", VERSION, "conversation_id", conversation, "server", server, "window", window, "writes", writes)
        return (*fields, "throttled_n", n) if n else fields


def to_entries(reports: Sequence[HeatReport]) -> Iterator[tuple[str | int, ...]]:
    """Yield the fields of the entries that carry the reports, in their order.

    Reports of one server and window that follow each other share entries, of at most MAX_REPORTS and MAX_ENTRY_BYTES.
    """
    for (server, window), group in groupby(reports, key=lambda report: (report.server, report.window)):
        head = ("v", SEVERAL, "server", server, "window", window, "reports")
        # Names, version and window, and the field that counts requeues, have fewer than 64 bytes.
        room = MAX_ENTRY_BYTES - 64 - len(server.encode())
        waiting: list[tuple[HeatReport, str]] = []
        size = 0
        for report in group:
            row = (report.conversation_id, report.writes, report.throttled_n)[: 3 if report.throttled_n else 2]
            text = json.dumps(row, separators=(",", ":"))  # ASCII: as many bytes as characters
            if waiting and (len(waiting) == MAX_REPORTS or size + len(text) + 1 > room):
                yield _entry(head, waiting)
                waiting, size = [], 0
            waiting.append((report, text))
            size += len(text) + 1
        yield _entry(head, waiting)


def _entry(head: tuple[str | int, ...], reports: Sequence[tuple[HeatReport, str]]) -> tuple[str | int, ...]:
    if len(reports) == 1:
        return reports[0][0].fields()
    return (*head, f"[{','.join(text for _, text in reports)}]")


def parse(flat: Sequence[bytes], now: float) -> list[HeatReport]:
    """Parse the fields of an entry: name, value, name value … Return its reports, at least one, of one window.

    Fields that are unknown in versions 1 and 2 are ignored.

    Raises:
        BadReportError: the entry does not consist of valid reports; the message is the reason.
    """
    if len(flat) > 2 * MAX_FIELDS:
        raise BadReportError(f"{len(flat) // 2} fields: at most {MAX_FIELDS} are allowed")
    if (size := len(b"".join(flat))) > MAX_ENTRY_BYTES:
        raise BadReportError(f"{size} bytes: at most {MAX_ENTRY_BYTES} are allowed")
    try:
        server_bytes, window_digits, rows = _values(flat)
        server = server_bytes.decode()
        window = _whole_number("window", window_digits)
        if not server or len(server) > MAX_SERVER_BYTES:
            raise BadReportError(f"the server name has {len(server)} characters: 1 to {MAX_SERVER_BYTES} are allowed")
        if window > now + MAX_AHEAD:
            raise BadReportError(f"the window is {window - now:.0f} s in the future: check the clock of that server")
        return _reports(server, window, rows)
    except UnicodeDecodeError:
        raise BadReportError("a string that is not UTF-8") from None
    except InvalidConversationIdError as exc:
        raise BadReportError(exc.message) from None


def _reports(server: str, window: int, rows: Sequence[_Row]) -> list[HeatReport]:
    reports = []
    for conversation_id, writes, throttled_n in rows:
        check_conversation_id(conversation_id)
        if writes > MAX_WRITES:
            raise BadReportError(f"{writes} writes in one window: at most {MAX_WRITES} are possible")
        if throttled_n > MAX_THROTTLED_N:
            raise BadReportError(f"throttled at N {throttled_n}: at most {MAX_THROTTLED_N} is possible")
        # The constructor of a named tuple takes twice as long (measured).
        reports.append(tuple.__new__(HeatReport, (conversation_id, server, window, writes, throttled_n)))
    return reports


def _values(flat: Sequence[bytes]) -> tuple[bytes, bytes, Sequence[_Row]]:
    """Return the server, the window, and the rows of the reports."""
    # Most single reports are as HeatReport.fields writes them. A dictionary takes a quarter of the parsing (measured).
    if flat[::2] == _USUAL_NAMES and flat[1] == b"1" and len(flat) == 2 * len(_USUAL_NAMES):
        _, _, _, conversation, _, server, _, window, _, writes = flat
        return server, window, ((conversation.decode(), _whole_number("writes", writes), 0),)
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    version = fields.get(b"v")
    try:
        if version == b"2":
            return fields[b"server"], fields[b"window"], _rows(fields[b"reports"])
        if version != b"1":
            raise BadReportError("no version" if version is None else f"unknown version {_quoted(version)}")
        conversation, server, window, writes = (fields[name] for name in _USUAL_NAMES[1:])
    except KeyError as exc:
        raise BadReportError(f"no field {exc.args[0].decode()}") from None
    n_digits = fields.get(b"throttled_n")
    throttled_n = 0 if n_digits is None else _whole_number("throttled_n", n_digits)
    return server, window, ((conversation.decode(), _whole_number("writes", writes), throttled_n),)


def _rows(text: bytes) -> Sequence[_Row]:
    """Return the rows of an entry with several reports: ``[["conv_1", 30], ["conv_2", 45, 4]]`` as JSON."""
    decode, error, astuple = _decoder()
    try:
        rows = decode(text)
    except error as exc:
        raise BadReportError(f"reports: {exc}") from None
    if not 0 < len(rows) <= MAX_REPORTS:
        raise BadReportError(f"{len(rows)} reports in one entry: 1 to {MAX_REPORTS} are allowed")
    return [astuple(row) for row in rows]


@cache
def _decoder() -> tuple[Callable[[bytes], list[Any]], type[Exception], Callable[[Any], _Row]]:
    """Return msgspec's decoder of rows, its error, and what makes a tuple of a row.

    The decoder refuses what is missing, too much, or of another type.
    """
    with importing:
        import msgspec

    number = Annotated[int, msgspec.Meta(ge=0, lt=10**12)]
    define: Any = partial(msgspec.defstruct, array_like=True, forbid_unknown_fields=True, gc=False)
    row = define("Row", [("conversation_id", str), ("writes", number), ("throttled_n", number, 0)])
    decode: Callable[[bytes], list[Any]] = msgspec.json.Decoder(list.__class_getitem__(row)).decode
    return decode, msgspec.DecodeError, msgspec.structs.astuple


def _whole_number(name: str, value: bytes) -> int:
    if not value.isdigit() or len(value) > 12:
        raise BadReportError(f"{name} is not a whole number: {_quoted(value)}")
    return int(value)


def _quoted(value: bytes) -> str:
    return repr(value[:40].decode("utf-8", "backslashreplace"))
