"""The source of entries for ``registry list`` and ``registry export``: Redis or the backup."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from saltctl.cli.output import warn
from saltctl.cli.session import Session
from saltctl.errors import UnavailableError

Source = Literal["redis", "backup"]


def trusted_source(session: Session) -> Source:
    """Return Redis if it is verified; else print a warning and return the backup."""
    try:
        if all(session.store.verified().values()):
            return "redis"
        warn("Redis is not verified, so these entries come from the backup. To verify it: saltctl rebuild")
    except UnavailableError as exc:
        warn(f"these entries come from the backup: {exc.message}")
    return "backup"


class Entries:
    """The entries of one source, as (conversation id, max_n), in no order. Iterate once.

    ``damaged`` counts the items of the backup that were left out so far.
    """

    def __init__(self, session: Session, source: Source) -> None:
        self._session = session
        self._source = source
        self.damaged = 0

    def __iter__(self) -> Iterator[tuple[str, int]]:
        """Read the entries."""
        if self._source == "redis":
            yield from self._session.store.entries()
            return
        for page in self._session.backup.scan(4):
            self.damaged += len(page.damaged)
            for conversation_id, max_n, _ in page.entries:
                yield conversation_id, max_n
