"""Lookups and raises: how many salts a conversation has, and how it gets more of them.

A lookup asks Redis (``_lookup_in_redis``) and falls back to the backup table (``lookup_in_backup``). A raise writes
the backup (``raise_to``), then Redis and the commit (``_merge_and_commit``).

This module keeps two parts of the promise. A lookup returns at least every raise that was acknowledged before it
began, or it raises an error, never a default. A raise is acknowledged only after the backup holds it, and writers
spread over N salts only after every reader covers N.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from saltctl.commands import command_line, hint_of
from saltctl.errors import (
    BackupLostError,
    RaiseIncompleteError,
    RaiseStep,
    RedisUnavailableError,
    SaltctlError,
    UsageError,
    closed,
)
from saltctl.forks import importing
from saltctl.registry.breaker import Breaker
from saltctl.registry.lookups import Lookup, lookup_of, unique_ids
from saltctl.salting import check_conversation_id, check_salt_count
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry, epoch_of, max_n_of, write_n_of
from saltctl.stores.contracts.registry import BackupEntry, BackupStore, Raise, RegistryStore
from saltctl.times import iso_utc
from saltctl.values import LONGEST, check_number, check_whole

MAX_REASON = 500
"""The longest reason of a raise, in characters."""


@dataclass(frozen=True, slots=True)
class RaiseResult:
    """The outcome of a raise. ``before`` and ``after`` are the N of new messages by the backup.

    That is max_n unless the conversation was cooled. ``changed``: this call increased it; False if the backup already
    held as much. ``committed``: all three steps
    are done. That is true for every result that is returned: a raise that stops between two steps raises
    RaiseIncompleteError, whose ``step`` is the last step that was done.
    """

    conversation_id: str
    before: int
    after: int
    changed: bool
    committed: bool
    step: RaiseStep


@dataclass(eq=False)
class Registry:
    """Looks up and raises the number of salts of conversations. Thread-safe: open one in each process and share it.

    >>> registry = Registry.open()                       # doctest: +SKIP
    >>> registry.lookup("conv_abc123").read_set()        # doctest: +SKIP

    Args:
        cap: the largest N that a raise may set.
        actor: recorded with each raise.
        breaker_seconds: how long lookups skip a Redis server after it failed, and once more after its first answer
            since an outage.
        clock: monotonic seconds, for the circuit breaker.
        now: the current time, recorded with each raise.
        on_raise: called with the id of each conversation whose max_n this registry increased, by any thread.
        on_repair: called likewise if it wrote again what the backup holds (see :meth:`complete`).
    """

    store: RegistryStore
    backup: BackupStore
    _: KW_ONLY
    cap: int = 256
    actor: str = "unknown"
    breaker_seconds: float = 1.0
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    on_raise: Callable[[str], object] = lambda _: None
    on_repair: Callable[[str], object] = lambda _: None
    last_failure: SaltctlError | None = field(default=None, init=False)
    """Why the latest lookup that fell back to the backup did so; None if Redis answered the latest lookup."""
    breaker: Breaker = field(init=False)
    _closed: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant; raises UsageError."""
        check_whole("cap", self.cap, 1)
        check_number("breaker_seconds", self.breaker_seconds, 0, LONGEST)
        self.breaker = Breaker(self.breaker_seconds, self.clock)

    @classmethod
    def open(cls, settings: Settings | None = None) -> Registry:
        """Open the registry of the settings; without settings, of the environment.

        Connects to no server. Creates the DynamoDB client at once, since that takes a few hundred milliseconds,
        which the first fallback during an outage of Redis must not wait for.

        Raises:
            ConfigurationError: no Redis is configured, or a setting cannot be used.
        """
        with importing:
            from saltctl.settings import settings_or_loaded
            from saltctl.stores.aws.backup_table import BackupTable
            from saltctl.stores.redis.registry import RedisRegistry

        settings = settings_or_loaded(settings)
        backup = BackupTable(settings)
        _ = backup.client
        return cls.over(settings, RedisRegistry(settings, registry_id=backup.registry.id), backup)

    @classmethod
    def over(cls, settings: Settings, store: RegistryStore, backup: BackupStore, **more: Any) -> Self:
        """Create a registry over these stores, with the rest from the settings. ``more`` arguments are the class's."""
        return cls(
            store,
            backup,
            cap=settings.max_n_cap,
            actor=settings.actor,
            breaker_seconds=settings.breaker_seconds,
            **more,
        )

    def close(self) -> None:
        """Close the connections. What is called after that raises UsageError."""
        self._closed = True
        for store in (self.store, self.backup):
            getattr(store, "close", lambda: None)()  # stores in memory have nothing to close

    def __enter__(self) -> Self:
        """Return the registry itself, which is closed at the end of the block. Raises UsageError if it is closed."""
        self._check_open()
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise closed("registry")

    def lookup(self, conversation_id: str) -> Lookup:
        """Look up how many salts a conversation has now.

        Costs one round trip to Redis. If Redis fails or is fenced, it costs one strongly consistent read of the
        backup in addition; after a failure, for ``breaker_seconds``, only that read.

        Raises:
            InvalidConversationIdError: this cannot be a conversation id.
            UnavailableError: neither Redis nor the backup answers. There is no default: a wrong N hides messages.
            AccessDeniedError, ConfigurationError: the backup refuses the read, or the entry there is damaged.
        """
        self._check_open()
        check_conversation_id(conversation_id)
        ids = (conversation_id,)
        for primary in self._ids_by_primary(ids):
            found = self._lookup_in_redis(primary, ids)
            if found is not None:
                return self.answer(conversation_id, found[0])
        return self.lookup_in_backup(ids)[conversation_id]

    def answer(self, conversation_id: str, entry: Entry | None) -> Lookup:
        """Return the answer to a lookup for which a verified primary has this entry."""
        self.last_failure = None
        entry = entry or 1
        if isinstance(entry, int):
            return Lookup(conversation_id, entry, entry, "redis", entry)
        return lookup_of(conversation_id, entry, "redis", entry.write_n)

    def lookup_many(self, conversation_ids: Iterable[str]) -> dict[str, Lookup]:
        """Look up many conversations in few round trips; the result keeps the order of the ids.

        Raises:
            As :meth:`lookup`; an error for one id is raised for all of them.
        """
        self._check_open()
        wanted = unique_ids(conversation_ids)
        found = self.lookup_many_in_redis(wanted)
        if missing := [conversation_id for conversation_id in wanted if conversation_id not in found]:
            found |= self.lookup_in_backup(missing)
        return {conversation_id: found[conversation_id] for conversation_id in wanted}

    def lookup_many_in_redis(self, wanted: Sequence[str]) -> dict[str, Lookup]:
        """Look up those of these valid ids whose primaries answer; the others have to be looked up in the backup."""
        found: dict[str, Lookup] = {}
        for primary, ids in self._ids_by_primary(wanted).items():
            entries = self._lookup_in_redis(primary, ids)
            if entries is not None:
                pairs = zip(ids, (entry or 1 for entry in entries), strict=True)
                found |= {i: lookup_of(i, entry, "redis", write_n_of(entry)) for i, entry in pairs}
        if len(found) == len(wanted):
            self.last_failure = None
        return found

    def _ids_by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Group ids by the primary that holds them; empty if the primaries are unknown."""
        try:
            return self.store.by_primary(conversation_ids)
        except SaltctlError as exc:
            self.last_failure = exc
            return {}

    def _lookup_in_redis(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None] | None:
        """Look ids up on one verified primary; None if it fails, or failed within the last ``breaker_seconds``.

        After that time one lookup tries the primary, and the others skip it until that lookup has ended.
        """
        # Without failures this costs one check of an empty dictionary.
        if not self.breaker.skip_until or primary not in self.breaker.skip_until:
            return self._ask(primary, conversation_ids)
        with self.breaker.attempt(primary) as may_ask:
            return self._ask(primary, conversation_ids) if may_ask else None

    def _ask(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None] | None:
        try:
            found = self.store.lookup(primary, conversation_ids)
        except SaltctlError as exc:
            self.note_failure(primary, exc)
            return None
        return found if not self.breaker.skip_until or self.breaker.accepts(primary) else None

    def note_failure(self, primary: str, exc: SaltctlError) -> None:
        """Record why a lookup falls back to the backup; raise the error again if the backup would fail, too."""
        if exc.id_unknown:  # the backup that holds it would fail again, perhaps after another wait
            raise exc
        self.breaker.note_failure(primary, exc)
        self.last_failure = exc

    def lookup_in_backup(self, conversation_ids: Sequence[str]) -> dict[str, Lookup]:
        """Look ids up in the backup by strongly consistent reads: the fallback of every lookup."""
        entries: dict[str, BackupEntry]
        if len(conversation_ids) == 1:
            entry = self.backup.get(conversation_ids[0])
            entries = {} if entry is None else {entry.conversation_id: entry}
        else:
            entries = self.backup.get_many(conversation_ids)
        found = {}
        for conversation_id in conversation_ids:
            entry = entries.get(conversation_id)
            held, write_n = (1, 1) if entry is None else (entry.entry, entry.write_n)
            # Readers look before writers leap: a writer that fell back stays below what every reader covers.
            found[conversation_id] = lookup_of(conversation_id, held, "backup", write_n)
        return found

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Increase N to n in the three steps of the protocol, and return after all of them are done.

        It can be repeated, run twice at once and run late: max_n never goes down. If the backup already holds n or
        more, steps 2 and 3 are done for that N, since they complete a raise that another process did not finish.
        ``n`` is a power of two up to the cap. The reason, of at most 500 characters, is recorded with the raise, and so
        is the actor, by default that of the settings.

        Raises:
            InvalidConversationIdError, InvalidSaltCountError, UsageError: refused; nothing was changed.
            UnavailableError, AccessDeniedError, ConfigurationError: step 1 failed, though it may have been done.
            RaiseIncompleteError: stopped after step 1 or 2. Repeat the raise, or rebuild, to complete it.
        """
        self._check_open()
        check_conversation_id(conversation_id)
        check_salt_count(n, self.cap)
        if len(reason) > MAX_REASON:
            raise UsageError(f"the reason has {len(reason)} characters; at most {MAX_REASON} are kept")
        registry_id = self.backup.check_registry().registry_id
        by = Raise(n, iso_utc(self.now()), actor or self.actor, reason)
        before, changed = None, False
        while True:
            # Step 1, the backup. A failed condition is not an error: the backup already holds n or more.
            outcome = self.backup.raise_max_n(conversation_id, by)
            before, changed = outcome.before if before is None else before, changed or outcome.changed
            if outcome.changed:
                self.on_raise(conversation_id)
            if self._merge_and_commit(conversation_id, outcome.entry, registry_id):
                after = write_n_of(outcome.entry)
                return RaiseResult(conversation_id, before, after, changed, True, "commit")
            # It was cooled since step 1, after another process had completed the raise: it is raised again.

    def complete(self, conversation_id: str) -> bool:
        """Do steps 2 and 3 of a raise for the N that the backup holds; return whether it holds an entry.

        This completes a raise that stopped between two steps, and restores an entry that Redis lost. Unlike
        :meth:`raise_to` it accepts any N that the backup holds, and does not write to a backup that is committed.

        Raises:
            As :meth:`raise_to`, except InvalidSaltCountError and UsageError.
        """
        self._check_open()
        check_conversation_id(conversation_id)
        registry_id = self.backup.check_registry().registry_id
        while (entry := self.backup.get(conversation_id)) is not None:
            if self._merge_and_commit(conversation_id, entry.entry, registry_id, committed=not entry.half_done):
                self.on_repair(conversation_id)
                return True
        return False

    def merge(self, entry: BackupEntry, registry_id: str) -> bool:
        """Merge an entry that the backup of this registry holds into Redis; return whether that changed Redis.

        Raises:
            UnavailableError, AccessDeniedError, ConfigurationError: Redis, or its backup, may not hold it.
        """
        return self._merge_into_primary(entry.conversation_id, entry.entry, registry_id)

    def _merge_and_commit(
        self, conversation_id: str, entry: Entry, registry_id: str, *, committed: bool = False
    ) -> bool:
        """Do steps 2 and 3 of a raise to the entry, which the backup of this registry holds already.

        Returns False if the conversation was cooled since, so that the raise is not in force.
        """
        done: RaiseStep = "backup"
        try:
            # Step 2, Redis, verified or not: a rebuild may have scanned this item before step 1.
            self._merge_into_primary(conversation_id, entry, registry_id)
            done = "redis"
            # Step 3, the commit: from now on writers that fall back to the backup may use n, too.
            return (
                committed
                or self.backup.commit_write_n(conversation_id, entry)
                or self._is_in_force(conversation_id, entry)
            )
        except SaltctlError as exc:
            reason = "the backup holds it and Redis does not" if done == "backup" else "its last step is not confirmed"
            n = write_n_of(entry)
            again = command_line("registry", "set", ids=[conversation_id, str(n)], given={"--yes": True})
            raise RaiseIncompleteError(
                f"the raise of {conversation_id!r} to {n} is incomplete: {reason}. {exc.message}",
                step=done,
                hint=hint_of("readers miss nothing", exc.hint, again),
            ) from exc

    def _is_in_force(self, conversation_id: str, entry: Entry) -> bool:
        """Return whether the backup still holds a raise, which another process committed; False if it was cooled since.

        A failed commit also means that the table was replaced since step 1.
        """
        held = self.backup.get(conversation_id)
        if held is None or held.max_n < max_n_of(entry):
            raise BackupLostError("the backup lost the first step of the raise", hint="saltctl recover --dry-run")
        return epoch_of(held.entry) == epoch_of(entry)

    def _merge_into_primary(self, conversation_id: str, entry: Entry, registry_id: str) -> bool:
        """Merge into the primary that the newest rebuild verifies, or into one that answers no lookups.

        Returns whether that changed the entry there.

        A primary that was paused or cut off past its failover still accepts merges, and no reader of the new one sees
        them. So the merge depends on the note of the newest rebuild, which is read after step 1: a rebuild that writes
        its note later scans later, and finds that step. See saltctl/help/protocol.txt.
        """
        for again in (False, True):
            identity = self.backup.check_registry()
            if identity.registry_id != registry_id:  # step 1 may have been done in a table that is lost by now
                raise RedisUnavailableError("the registry was recovered during the raise", hint="run the same again")
            # An unverified primary is accepted only if it was asked for after a note was read: a rebuild that verifies
            # it later writes its note later, and scans later.
            changed, state = self.store.merge(conversation_id, entry, identity.verifying, accept_unverified=again)
            if state == "noted" or (again and state == "unverified"):
                return changed
            self.store.refresh()
        raise RedisUnavailableError(
            "this primary was verified by an earlier rebuild than the newest one, so it was probably replaced",
            hint="saltctl rebuild",
        )
