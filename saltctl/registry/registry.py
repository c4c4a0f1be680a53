"""Lookups with their fallback, and raises: the two things that everybody does with the registry.

The promise, as far as it is kept here: a lookup returns at least every raise that was acknowledged before
it began, or it raises an error, never a default; a raise is acknowledged only when the backup holds it,
and writers may spread over N only after every reader covers N.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Self

from saltctl.errors import RaiseIncompleteError, RaiseStep, SaltctlError, UsageError
from saltctl.salting import check_conversation_id, check_salt_count, read_set
from saltctl.settings import Settings
from saltctl.stores.contracts import BackupEntry, BackupStore, Raise, RegistryStore
from saltctl.times import iso_utc

MAX_REASON = 500
"""Characters of a raise's reason that are kept."""


class Lookup(NamedTuple):
    """What one lookup learned.

    Readers cover ``max_n`` salts and the base partition; writers spread over ``write_n`` salts. They
    differ only where the answer came from the backup in the middle of a raise. Both are 1 when unsalted.
    """

    conversation_id: str
    max_n: int
    write_n: int
    source: Literal["redis", "backup"]

    @property
    def salted(self) -> bool:
        """Whether there is more than the base partition."""
        return self.max_n > 1

    @property
    def read_set(self) -> list[str]:
        """The partition keys that a complete read covers, the base partition first."""
        return read_set(self.conversation_id, self.max_n)


@dataclass(frozen=True, slots=True)
class RaiseResult:
    """What a raise did. ``before`` and ``after`` are max_n in the backup.

    ``changed``: this call increased max_n; False where as much was held already. ``committed``: all three
    steps are done, which is always so for a result that is returned; a raise that stops half-way is a
    RaiseIncompleteError, and its ``step`` says how far it came.
    """

    conversation_id: str
    before: int
    after: int
    changed: bool
    committed: bool
    step: RaiseStep


class CircuitBreaker:
    """After one failure of a server, nobody waits for it again for ``seconds``. Thread-safe.

    It only ever saves time: an open breaker sends lookups to the backup, which answers as truly.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._until: dict[str, float] = {}

    def is_open(self, server: str) -> bool:
        """Whether to leave the server alone for now."""
        # Without failures this is one look at an empty dictionary; it is on every lookup's path.
        return bool(self._until) and self._clock() < self._until.get(server, 0.0)

    def trip(self, server: str) -> None:
        """Note a failure."""
        self._until[server] = self._clock() + self._seconds

    def reset(self, server: str) -> None:
        """Note a success."""
        if self._until:
            self._until.pop(server, None)


class Registry:
    """How many salts each conversation has. Thread-safe; open one a process and share it.

    >>> registry = Registry.open()                       # doctest: +SKIP
    >>> registry.lookup("conv_abc123").read_set          # doctest: +SKIP

    Args:
        store: the registry in Redis.
        backup: its durable copy.
        cap: the largest N that a raise may aim at.
        breaker_seconds: how long lookups leave a server alone that has failed them.
        clock: monotonic seconds, for the breaker.
        now: the time in UTC, for the record of raises.
    """

    def __init__(
        self,
        store: RegistryStore,
        backup: BackupStore,
        *,
        layout: str,
        key_prefix: str,
        cap: int = 256,
        actor: str = "unknown",
        breaker_seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._store = store
        self._backup = backup
        self._layout = (layout, key_prefix)
        self._cap = cap
        self._actor = actor
        self._breaker = CircuitBreaker(breaker_seconds, clock)
        self._now = now
        self._claimed = False
        self._failure: SaltctlError | None = None

    @classmethod
    def open(cls, settings: Settings | None = None) -> Registry:
        """Open the registry that the settings name, resolved from the environment where omitted.

        Nothing is connected before it is needed. The client of the backup is made at once all the same:
        doing so takes a few hundred milliseconds, and an outage of Redis is no time for that.

        Raises:
            ConfigurationError: no Redis is configured, or a setting cannot be used.
        """
        from saltctl.settings import load_settings
        from saltctl.stores.aws.backup_table import BackupTable
        from saltctl.stores.redis.registry import RedisRegistry

        settings = settings or load_settings()
        backup = BackupTable(settings)
        _ = backup.client
        return cls.over(settings, RedisRegistry(settings), backup)

    @classmethod
    def over(cls, settings: Settings, store: RegistryStore, backup: BackupStore) -> Self:
        """A registry over given stores, with everything else from the settings."""
        return cls(
            store,
            backup,
            layout=settings.layout,
            key_prefix=settings.key_prefix,
            cap=settings.max_n_cap,
            actor=settings.actor,
            breaker_seconds=settings.breaker_seconds,
        )

    def close(self) -> None:
        """Give up the connections."""
        for store in (self._store, self._backup):
            close = getattr(store, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Self:
        """Itself; connections are given up when the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up the connections."""
        self.close()

    @property
    def last_failure(self) -> SaltctlError | None:
        """Why the latest lookup that had to fall back did so; None where Redis alone answered the latest one."""
        return self._failure

    def lookup(self, conversation_id: str) -> Lookup:
        """How many salts a conversation has now.

        Costs one round trip to Redis; where that fails or is fenced, one strongly consistent read of the
        backup; after a failure, for ``breaker_seconds``, that read alone.

        Raises:
            InvalidConversationIdError: the id cannot be one.
            UnavailableError: neither side answers. There is no default: a wrong N hides messages.
            AccessDeniedError, ConfigurationError: the backup refuses, or the entry there is damaged.
        """
        check_conversation_id(conversation_id)
        ids = (conversation_id,)
        for primary in self._primaries_of(ids):
            held = self._ask(primary, ids)
            if held is not None:
                self._failure = None
                n = held[0] or 1
                return Lookup(conversation_id, n, n, "redis")
        return self._lookup_in_backup(ids)[conversation_id]

    def lookup_many(self, conversation_ids: Iterable[str]) -> dict[str, Lookup]:
        """Like :meth:`lookup` for many ids at once, in few round trips; ids keep their order.

        Raises:
            As :meth:`lookup`; the error of one id is the error of all.
        """
        wanted = list(dict.fromkeys(conversation_ids))
        for conversation_id in wanted:
            check_conversation_id(conversation_id)
        found = self._lookup_all(wanted)
        return {conversation_id: found[conversation_id] for conversation_id in wanted}

    def _lookup_all(self, conversation_ids: Sequence[str]) -> dict[str, Lookup]:
        found: dict[str, Lookup] = {}
        for primary, ids in self._primaries_of(conversation_ids).items():
            held = self._ask(primary, ids)
            if held is not None:
                for conversation_id, n in zip(ids, held, strict=True):
                    found[conversation_id] = Lookup(conversation_id, n or 1, n or 1, "redis")
        unanswered = [conversation_id for conversation_id in conversation_ids if conversation_id not in found]
        if not unanswered:
            self._failure = None
        else:
            found.update(self._lookup_in_backup(unanswered))
        return found

    def _primaries_of(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The ids by primary; nothing where it cannot be learned who the primaries are."""
        try:
            return self._store.by_primary(conversation_ids)
        except SaltctlError as exc:
            self._failure = exc
            return {}

    def _ask(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None] | None:
        """What a verified primary holds; None where it does not answer, or has failed a moment ago."""
        if self._breaker.is_open(primary):
            return None
        try:
            held = self._store.lookup(primary, conversation_ids)
        except SaltctlError as exc:
            # Whatever Redis has to say but a verified answer, the backup knows better.
            self._breaker.trip(primary)
            self._failure = exc
            return None
        self._breaker.reset(primary)
        return held

    def _lookup_in_backup(self, conversation_ids: Sequence[str]) -> dict[str, Lookup]:
        entries: dict[str, BackupEntry]
        if len(conversation_ids) == 1:
            entry = self._backup.get(conversation_ids[0])
            entries = {} if entry is None else {entry.conversation_id: entry}
        else:
            entries = self._backup.get_many(conversation_ids)
        found = {}
        for conversation_id in conversation_ids:
            entry = entries.get(conversation_id)
            max_n, write_n = (1, 1) if entry is None else (entry.max_n, entry.write_n)
            # Readers look before writers leap: a fallback writer stays below what every reader covers.
            found[conversation_id] = Lookup(conversation_id, max_n, min(write_n, max_n), "backup")
        return found

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Increase max_n to n, in the three steps of the protocol; return once all are done.

        Safe to repeat, to run twice at once, and to run late: max_n never goes down. Where the backup
        holds as much or more, the steps after it are done all the same, for the larger N, since they
        complete a raise that somebody left half-way.

        Args:
            conversation_id: the conversation.
            n: a power of two up to the cap.
            reason: kept with the raise; at most 500 characters.
            actor: who asks for it, if not the actor of the settings.

        Raises:
            InvalidConversationIdError, InvalidSaltCountError, UsageError: refused, nothing was done.
            UnavailableError, AccessDeniedError, ConfigurationError: step 1 failed; it may have been done.
            RaiseIncompleteError: stopped after step 1 or 2; repeat it, or rebuild, to complete it.
        """
        check_conversation_id(conversation_id)
        check_salt_count(n, self._cap)
        if len(reason) > MAX_REASON:
            raise UsageError(f"the reason has {len(reason)} characters; at most {MAX_REASON} are kept")
        self._claim_layout()
        at = iso_utc(self._now())
        # Step 1, the backup. A condition that fails is no failure: as much is held already.
        outcome = self._backup.raise_max_n(conversation_id, Raise(n, at, actor or self._actor, reason))
        after = n if outcome.changed else outcome.before
        self._finish(conversation_id, after)
        return RaiseResult(conversation_id, outcome.before, after, outcome.changed, True, "commit")

    def complete(self, conversation_id: str) -> bool:
        """Do steps 2 and 3 of a raise for what the backup holds; whether it holds anything.

        For a raise that somebody left half-way, or that Redis lost. Unlike :meth:`raise_to` it takes any N
        that the backup has, and writes nothing where all is done.

        Raises:
            As :meth:`raise_to`, but for the N.
        """
        check_conversation_id(conversation_id)
        self._claim_layout()
        entry = self._backup.get(conversation_id)
        if entry is None:
            return False
        self._finish(conversation_id, entry.max_n, committed=entry.write_n >= entry.max_n)
        return True

    def _claim_layout(self) -> None:
        if not self._claimed:
            # Once a process: a client of another layout would merge into buckets that nobody reads.
            self._backup.claim_layout(*self._layout)
            self._claimed = True

    def _finish(self, conversation_id: str, after: int, *, committed: bool = False) -> None:
        """Steps 2 and 3, for an N that the backup holds."""
        # Step 2, Redis, verified or not: a rebuild may have scanned this item before step 1.
        try:
            self._store.merge(conversation_id, after)
        except SaltctlError as exc:
            raise self._incomplete(conversation_id, after, "backup", exc) from exc
        if committed:
            return
        # Step 3, the commit: only now may writers who ask the backup leap.
        try:
            self._backup.commit_write_n(conversation_id, after)
        except SaltctlError as exc:
            raise self._incomplete(conversation_id, after, "redis", exc) from exc

    def _incomplete(self, conversation_id: str, n: int, step: RaiseStep, cause: SaltctlError) -> RaiseIncompleteError:
        held = "the backup holds it and Redis does not" if step == "backup" else "its last step is not confirmed"
        return RaiseIncompleteError(
            f"the raise of {conversation_id!r} to {n} is incomplete: {held}. {cause.message}",
            step=step,
            hint=f"readers miss nothing; run the same again, or `saltctl rebuild`, to complete it. {cause.hint}",
        )
