"""Cool a conversation: new messages use fewer salts, and from a boundary on readers look on fewer, too.

*Writers step back before readers look away* (saltctl/help/protocol.txt). A cool-down has two phases, and ``cool`` is
called for each: the first narrows the writers, in the backup and then in Redis. The second, after a wait, seals: it
finds the boundary, and narrows the readers from there on. The next call goes on from wherever another one stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self

from saltctl.commands import command_line, hint_of
from saltctl.cooling.boundary import Boundary, find_boundary, learn_times, newest_key
from saltctl.errors import DamagedEntryError, IncompleteError, RefusedError, UnknownTimesError, UsageError
from saltctl.history.history import History
from saltctl.history.sort_key_form import SortKeyForm
from saltctl.registry.registry import MAX_REASON, Registry
from saltctl.salting import check_conversation_id, check_salt_count
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import lacks, recent_n_of
from saltctl.stores.contracts.messages import SortKey
from saltctl.stores.contracts.registry import BackupEntry, Raise
from saltctl.times import iso_utc, parse_iso
from saltctl.values import LONGEST, check_number

Phase = Literal["narrowed", "sealed"]
_ATTEMPTS = 20
"""Attempts while others raise or cool the same conversation; one of them succeeds each time."""


@dataclass(frozen=True, slots=True)
class CoolingResult:
    """The state of a conversation after :meth:`Cooling.cool`.

    ``phase``: narrowed, so that new messages use ``write_n`` salts and readers still ask all; sealed, so that readers
    ask ``recent_n`` salts from ``recent_from`` on; None if it was never cooled, or a raise has ended its cool-down.
    ``ready_at``: when it can be sealed, ISO 8601 UTC; None unless it is narrowed. ``changed``: this call did something.
    ``pushed_by``: a row beyond the present that the boundary had to lie above, such as a scheduled message.
    """

    conversation_id: str
    phase: Phase | None
    max_n: int
    write_n: int
    recent_n: int
    recent_from: SortKey | None
    ready_at: str | None
    changed: bool
    reason: str
    pushed_by: SortKey | None = None


@dataclass(eq=False)
class Cooling:
    """Cools conversations. Thread-safe.

    Args:
        registry, history: of the same registry; ``history`` reads the salts that new messages leave.
        wait: seconds between the phases. A writer that looked up before it must have written after it.
        margin: seconds by which the boundary lies beyond the first phase, if sort keys are times.
        form: the setting ``sort_key_form``.
        any_form: seal conversations whose sort keys are not known to hold times.
        now: the current time.
    """

    registry: Registry
    history: History
    _: KW_ONLY
    wait: float = 600.0
    margin: float = 3600.0
    form: str | None = None
    any_form: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be meant; raises UsageError."""
        check_number("wait", self.wait, 0, LONGEST)
        check_number("margin", self.margin, 0, LONGEST)

    @classmethod
    def over(cls, settings: Settings, registry: Registry, history: History, **more: Any) -> Self:
        """Create it with the rest from the settings. ``more`` arguments are the class's."""
        given = {"wait": settings.cool_wait, "margin": settings.cool_margin, "form": settings.sort_key_form}
        return cls(registry, history, **given | more)

    def cool(self, conversation_id: str, to: int, *, reason: str = "", actor: str | None = None) -> CoolingResult:
        """Take a conversation one phase further towards N ``to``. It can be repeated, and run twice at once.

        ``to`` is a power of two. Nothing happens if readers ask no more salts than that for the newest messages.

        Raises:
            InvalidConversationIdError, InvalidSaltCountError, UsageError: refused; or its sort keys hold no times that
                are known, and ``any_form`` is not set. Nothing was changed.
            RaiseIncompleteError: a raise was half done, and could not be completed.
            UnavailableError, AccessDeniedError, ConfigurationError: a server failed. Repeat the call.
        """
        if len(reason) > MAX_REASON:
            raise UsageError(f"the reason has {len(reason)} characters; at most {MAX_REASON} are kept")
        registry_id = self._check(conversation_id, to)
        for _ in range(_ATTEMPTS):
            entry = self._complete(conversation_id)
            step = next_step(entry, to)
            if step == "go on":
                result = self._go_on(entry, registry_id)
            elif step is None:
                result = self._unchanged(entry, registry_id)
                return replace(result, reason=HIGHER) if to > entry.target else result
            else:
                self._learn_times(conversation_id, to)
                by = Raise(to, iso_utc(self.now()), actor or self.registry.actor, reason, cooled=True)
                result = self._narrow(entry, by, registry_id)
            if result is not None:
                return result
        raise IncompleteError(f"{conversation_id!r} is raised and cooled all the time", hint="run the same again")

    def preview(self, conversation_id: str, to: int) -> CoolingResult:
        """Return the result that :meth:`cool` would have now, and change nothing.

        ``pushed_by`` is there in the first phase, too: a row that the boundary would have to lie above.

        Raises:
            As :meth:`cool`.
        """
        self._check(conversation_id, to)
        entry = self.registry.backup.get(conversation_id) or BackupEntry(conversation_id, 1, 1)
        step = next_step(entry, to)
        if step is None:
            return self._result(entry, changed=False)
        at = iso_utc(self.now())
        if step == "narrow":
            entry = entry.narrowed(Raise(to, at, self.registry.actor, "", cooled=True))
        assert entry.cooling is not None
        held = self.registry.store.read_unverified([conversation_id])[conversation_id]
        if not entry.cooling.narrowed_at or lacks(1 if held is None else held, entry.entry):
            began = replace(entry, cooling=replace(entry.cooling, narrowed_at=at))
            return replace(self._result(began, changed=True), pushed_by=self._find_boundary(began).pushed_by)
        if self.now() < self._ready_at(entry):
            return self._result(entry, changed=False)
        boundary = self._find_boundary(entry)
        sealed = self._result(entry.sealed(boundary.sort_key), changed=True)
        return replace(sealed, pushed_by=boundary.pushed_by)

    def _check(self, conversation_id: str, to: int) -> str:
        """Refuse what cannot be; return the id of the registry."""
        check_conversation_id(conversation_id)
        check_salt_count(to, self.registry.cap)
        return self.registry.backup.check_registry().registry_id

    def _complete(self, conversation_id: str) -> BackupEntry:
        """Return the entry, after a raise that was half done is completed: it would be undone otherwise."""
        for _ in range(_ATTEMPTS):
            entry = self.registry.backup.get(conversation_id) or BackupEntry(conversation_id, 1, 1)
            if not entry.half_done:
                return entry
            self.registry.complete(conversation_id)
        raise IncompleteError(f"{conversation_id!r} is being raised", hint="run the same again")

    def _narrow(self, entry: BackupEntry, by: Raise, registry_id: str) -> CoolingResult | None:
        """Do the first phase; None if the entry has changed meanwhile."""
        self.registry.backup.allow_cooling()
        # Step 1, the backup: writers that fall back spread over few salts. Readers still ask all.
        narrowed = entry.narrowed(by)
        return self._go_on(narrowed, registry_id) if self.registry.backup.replace(entry, narrowed) else None

    def _go_on(self, entry: BackupEntry, registry_id: str) -> CoolingResult | None:
        """Take a narrowed entry further; None if it has changed meanwhile."""
        assert entry.cooling is not None
        if not entry.cooling.narrowed_at:
            # Step 2, Redis: from here on no source lets writers spread over more.
            self.registry.merge(entry, registry_id)
            began = replace(entry, cooling=replace(entry.cooling, narrowed_at=iso_utc(self.now())))
            return self._result(began, changed=True) if self.registry.backup.replace(entry, began) else None
        if self._is_overwritten(entry):
            # By a client of an older format: step 2 and the wait begin anew. First its time is taken back: a merge
            # hides that they have to, and this process may die before it writes another one.
            again = replace(entry, cooling=replace(entry.cooling, narrowed_at=""))
            if not self.registry.backup.replace(entry, again):
                return None
            result = self._go_on(again, registry_id)
            return result and replace(result, reason=BEGUN_ANEW)
        if self.now() < self._ready_at(entry):
            return self._result(entry, changed=False)
        # Steps 3 to 5: the boundary, the backup, Redis.
        boundary = self._find_boundary(entry)
        sealed = entry.sealed(boundary.sort_key)
        if not self.registry.backup.replace(entry, sealed):
            return None
        self.registry.merge(sealed, registry_id)
        return replace(self._result(sealed, changed=True), pushed_by=boundary.pushed_by)

    def _is_overwritten(self, entry: BackupEntry) -> bool:
        held = self.registry.store.read_unverified([entry.conversation_id])[entry.conversation_id]
        return lacks(held, entry.entry)

    def _unchanged(self, entry: BackupEntry, registry_id: str) -> CoolingResult:
        """Return the state of an entry that need not be cooled. Redis may lack its last step."""
        changed = entry.cooling is not None and self.registry.merge(entry, registry_id)
        return self._result(entry, changed=changed)

    def _ready_at(self, entry: BackupEntry) -> datetime:
        return self._narrowed_at(entry) + timedelta(seconds=self.wait)

    def _narrowed_at(self, entry: BackupEntry) -> datetime:
        assert entry.cooling is not None
        try:
            return parse_iso(entry.cooling.narrowed_at)
        except ValueError:
            problem = f"the item of {entry.conversation_id!r} is damaged: its narrowed_at is not a time"
            raise DamagedEntryError(problem, hint="it was edited by hand") from None

    def _learn_times(self, conversation_id: str, to: int) -> SortKeyForm | None:
        """Return the form of times in sort keys; refuse keys that hold none that is known, unless that is accepted."""
        form = learn_times(self.history, conversation_id, self.now(), self.form)
        if form is not None:
            return form
        if not self.history.page(conversation_id).messages:
            raise _no_messages(conversation_id)
        if not self.any_form:
            accepted = command_line("registry", "cool", ids=[conversation_id], given={"--to": to, "--yes": True})
            raise UnknownTimesError(
                f"the sort keys of {conversation_id!r} hold no times that are known: its boundary would lie just above "
                "the newest message, without a margin",
                hint=hint_of("name the form of the keys (SALTCTL_SORT_KEY_FORM), or accept that", accepted),
            )
        return None

    def _find_boundary(self, entry: BackupEntry) -> Boundary:
        assert entry.cooling is not None
        conversation_id, to, store = entry.conversation_id, entry.cooling.cool_to, self.history.store
        form = self._learn_times(conversation_id, to)
        at = self._narrowed_at(entry) + timedelta(seconds=self.margin)
        # New messages of an N of 1 are on the base partition: they leave salt 0, too.
        left = range(to if to > 1 else 0, entry.max_n)
        found = find_boundary(store, conversation_id, left, form, at)
        if found is None:  # no message is on any of these salts, so any boundary is right
            newest = newest_key(store, conversation_id)
            if newest is None:
                raise _no_messages(conversation_id)
            found = Boundary(newest)
        return found

    def _result(self, entry: BackupEntry, *, changed: bool) -> CoolingResult:
        cooling, held = entry.cooling, entry.entry
        phase: Phase | None = None
        if cooling is not None and cooling.unsealed:
            phase = "narrowed"
        elif cooling is not None and cooling.boundary is not None:
            phase = "sealed"
        waits = phase == "narrowed" and cooling is not None and bool(cooling.narrowed_at)
        return CoolingResult(
            entry.conversation_id,
            phase,
            entry.max_n,
            entry.target,
            recent_n_of(held),
            None if cooling is None else cooling.boundary,
            iso_utc(self._ready_at(entry)) if waits else None,
            changed,
            _REASONS[phase],
        )


def _no_messages(conversation_id: str) -> RefusedError:
    problem = f"{conversation_id!r} has no messages, which would show the form of its sort keys"
    return RefusedError(problem, hint="it costs little as it is; cool it once it has some")


def next_step(entry: BackupEntry, to: int) -> Literal["narrow", "go on"] | None:
    """Return what is to do next to take a conversation to N ``to``: begin a cool-down, or go on with it; or nothing."""
    if entry.cooling is not None and entry.cooling.unsealed and entry.cooling.cool_to == to:
        return "go on"
    return None if to > entry.target or entry.recent_n <= to else "narrow"


HIGHER = "new messages use fewer salts than that already; a raise gives them more"
BEGUN_ANEW = "Redis had lost the first phase, so that it was done again and the wait begins anew"
_REASONS = {
    None: "readers and writers use this N already",
    "narrowed": "new messages use fewer salts; readers still ask all",
    "sealed": "readers ask few salts from recent_from on",
}
