"""``--since`` and ``--until``: times, which become sort keys of the table; and their forms as raw sort keys."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from saltctl.cli import option
from saltctl.errors import UsageError
from saltctl.salting import number_text

if TYPE_CHECKING:
    from saltctl.cli.session import Session
    from saltctl.history.models import ReadOptions
    from saltctl.history.sort_key_form import SortKeyForm
    from saltctl.stores.contracts.messages import SortKey


@dataclass(frozen=True)
class Bounds:
    """The range of sort keys to read: ``low`` included, ``high`` excluded.

    ``form`` is the form of the table's sort keys, None if no time was given, or the conversation has no message.
    """

    low: SortKey | None
    high: SortKey | None
    form: SortKeyForm | None

    def options(self) -> dict[str, str | None]:
        """Return the bounds as options, which need no further read and do not move with the clock."""
        given = {"--since-key": self.low, "--until-key": self.high}
        return {name: key if key is None or isinstance(key, str) else number_text(key) for name, key in given.items()}


class BoundOptions:
    """The bounds as they were typed. Times are understood here, or refused, before any server is asked.

    Raises:
        UsageError: a bound is not a time, is given twice, or the range ends before it begins.
    """

    def __init__(self, since: str | None, until: str | None, since_key: str | None, until_key: str | None) -> None:
        for name, at, key in (("since", since, since_key), ("until", until, until_key)):
            if at is not None and key is not None:
                raise UsageError(f"--{name} and --{name}-key exclude each other", hint="give one of them")
        # Whole seconds: the fractions of seconds in sort keys may not sort by time.
        self.now = datetime.now(UTC).replace(microsecond=0)
        self._since = option.parse_time_option("--since", since, self.now)
        self._until = option.parse_time_option("--until", until, self.now)
        self._keys = since_key, until_key
        if self._since and self._until and self._until <= self._since:
            raise UsageError("the range ends before it begins", hint="give a --since that is before --until")

    def resolve(self, session: Session, conversation_id: str, like: ReadOptions) -> Bounds:
        """Return the bounds as sort keys. With a time it reads a few rows, consistent and partial as ``like``.

        Raises:
            UsageError: the sort keys have no form in which a time can be written.
            SaltctlError: as ``History.page``.
        """
        if self._since is None and self._until is None:
            return Bounds(*self._keys, None)
        from saltctl.history.sort_key_form import learn_form, sample_keys

        keys = sample_keys(session.history, conversation_id, like)
        if not keys:
            return Bounds(*self._keys, None)  # there is nothing to leave out
        form = learn_form(keys, self.now, session.settings.sort_key_form)
        low, high = (
            key if at is None else form.bound(at)
            for key, at in zip(self._keys, (self._since, self._until), strict=True)
        )
        return Bounds(low, high, form)
