"""Heat reports: one server's write count for one conversation in one window, and how it looks on the stream.

Whatever can be added to the stream can be added by anybody who has its password, so :func:`parse` gives a
reason for everything that is no report, and takes nothing on trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from saltctl.errors import InvalidConversationIdError
from saltctl.salting import check_conversation_id

VERSION = 1
WINDOW_SECONDS = 1
"""How long a window is. Windows begin at whole seconds since the epoch, on every server."""
MAX_WRITES = 10_000_000
"""Write units that one server can have counted in one window: far above what one process can send."""
MAX_THROTTLED_N = 65_536
MAX_SERVER_BYTES = 255
MAX_FIELDS = 16
MAX_ENTRY_BYTES = 4096
MAX_AHEAD = 60.0
"""Seconds that a reporting server's clock may be ahead of the reader's."""
_MAX_DIGITS = 12


class BadReportError(ValueError):
    """An entry of the stream that is no heat report; its text is the reason, for the dead letters."""


class HeatReport(NamedTuple):
    """One server's count. Every later report of the same conversation, window and server replaces it.

    ``window`` is the start of the window in seconds since the epoch, ``writes`` are write units. ``throttled_n``
    is 0, or the N that a write was spread over when DynamoDB throttled its key range: it needs more than that.
    """

    conversation_id: str
    server: str
    window: int
    writes: int
    throttled_n: int = 0

    def fields(self) -> tuple[str | int, ...]:
        """Field, value, field, value … as XADD takes them."""
        known: tuple[str | int, ...] = (
            "v",
            VERSION,
            "conversation_id",
            self.conversation_id,
            "server",
            self.server,
            "window",
            self.window,
            "writes",
            self.writes,
        )
        return (*known, "throttled_n", self.throttled_n) if self.throttled_n else known


def parse(flat: Sequence[bytes], now: float) -> HeatReport:
    """The report that an entry holds. Fields that version 1 does not know are passed over.

    Args:
        flat: field, value, field, value … as Redis returns them.
        now: seconds since the epoch.

    Raises:
        BadReportError: it holds none; the text says why.
    """
    if len(flat) > 2 * MAX_FIELDS:
        raise BadReportError(f"{len(flat) // 2} fields: at most {MAX_FIELDS} are read")
    if sum(map(len, flat)) > MAX_ENTRY_BYTES:
        raise BadReportError(f"{sum(map(len, flat))} bytes: at most {MAX_ENTRY_BYTES} are read")
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    version = fields.get(b"v")
    if version != b"1":
        raise BadReportError("no version" if version is None else f"unknown version {_shown(version)}")
    try:
        conversation_id = check_conversation_id(fields[b"conversation_id"].decode())
        server = fields[b"server"].decode()
        window = _whole(fields, b"window")
        writes = _whole(fields, b"writes")
        throttled_n = _whole(fields, b"throttled_n") if b"throttled_n" in fields else 0
    except KeyError as exc:
        raise BadReportError(f"no field {exc.args[0].decode()}") from None
    except UnicodeDecodeError:
        raise BadReportError("a text that is not UTF-8") from None
    except InvalidConversationIdError as exc:
        raise BadReportError(exc.message) from None
    if not server or len(server) > MAX_SERVER_BYTES:
        raise BadReportError(f"a server's name of {len(server)} characters: 1 to {MAX_SERVER_BYTES} are read")
    if writes > MAX_WRITES:
        raise BadReportError(f"{writes} writes in one window: at most {MAX_WRITES} can be true")
    if throttled_n > MAX_THROTTLED_N:
        raise BadReportError(f"throttled at N {throttled_n}: at most {MAX_THROTTLED_N} can be true")
    if window > now + MAX_AHEAD:
        raise BadReportError(f"a window {window - now:.0f} s in the future: is that server's clock wrong?")
    return HeatReport(conversation_id, server, window, writes, throttled_n)


def _whole(fields: dict[bytes, bytes], name: bytes) -> int:
    value = fields[name]
    if not value.isdigit() or len(value) > _MAX_DIGITS:
        raise BadReportError(f"{name.decode()} is no whole number: {_shown(value)}")
    return int(value)


def _shown(value: bytes) -> str:
    return repr(value[:40].decode("utf-8", "backslashreplace"))
