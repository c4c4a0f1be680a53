"""The plan of a recovery, and its report.

The plan is the state of the backup table and of Redis, whether they belong together, and the cost.
"""

from __future__ import annotations

import shlex
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

from saltctl.commands import hint_of, join_words
from saltctl.errors import BackupLostError, ConfigurationError, IncompleteError
from saltctl.rebuild import events
from saltctl.registry.discover import ScanCost, estimate_cost
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.service_state import Verification
from saltctl.stores.redis.buckets import RedisBucketReader
from saltctl.stores.redis.registry import RedisRegistry

Unproven = Literal["refuse", "raise", "skip"]
"""What becomes of conversations that may be salted, if their messages do not prove it."""
TableState = Literal["missing", "unclaimed", "restored", "intact"]
"""missing: there is no table. unclaimed: it is the backup of no registry. restored: it is a copy of the one that was
claimed, or its item ``#registry`` is damaged. intact: it is the right table."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The table and Region that Redis was verified from, and the command that sets them."""

    table: str
    region: str
    settings: str

    @classmethod
    def of(cls, noted: Verification | None, table: str, region: str) -> Elsewhere | None:
        """Return where Redis was verified from; None if it was this table in this Region, or is not recorded."""
        wrong = {}
        if noted is not None and noted.table not in ("", table):
            wrong["SALTCTL_BACKUP_TABLE"] = noted.table
        if noted is not None and noted.region not in ("", region):
            wrong["AWS_REGION"] = noted.region
        settings = join_words(["export", *(f"{name}={value}" for name, value in wrong.items())])
        return cls(noted.table, noted.region, settings) if noted is not None and wrong else None

    def __str__(self) -> str:
        return f"{self.table!r}{f' in {self.region}' if self.region else ''}"


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """The state of the table and of Redis, and the cost of the recovery.

    ``redis_registry`` is the id that the fences in Redis name, empty without fences. ``use_redis``: its entries are
    merged; those of another registry are not, if this table is intact. ``conflict`` is the reason why Redis seems to
    belong to another table; empty without one. ``suffices``: Redis is verified, and something shows that this was done
    from this table. ``messages`` is the cost of reading the messages table; None if Redis suffices. ``elsewhere`` is
    the table that Redis was verified from, if it is another one.
    """

    table: TableState
    backup_items: int
    redis_entries: int
    redis_registry: str
    redis_verified: bool
    use_redis: bool
    conflict: str
    suffices: bool
    messages: ScanCost | None
    elsewhere: Elsewhere | None = None

    def check(self, take_over: str) -> None:
        """Refuse a Redis that seems to belong to another table, unless it is to be taken over from its registry.

        Raises:
            ConfigurationError: it seems so, and ``take_over`` is not the id of its registry.
        """
        if self.conflict and take_over != self.redis_registry:
            given = f", and not to {take_over}" if take_over else ""
            restored = "the table was restored to a time before its last recovery, or if " * (self.table == "restored")
            raise ConfigurationError(
                f"{self.conflict}{given}: the wrong table, Region or Redis may be configured",
                hint=hint_of(
                    self.elsewhere.settings if self.elsewhere else "saltctl config show",
                    f"only if {restored}this Redis is to belong to this table from now on:",
                    f"saltctl recover --take-over {shlex.quote(self.redis_registry)}",  # whatever a fence holds
                ),
            )


@dataclass(frozen=True, slots=True)
class RecoveryProgress:
    """The current step, the number of entries or messages that it has handled, and about how many there are.

    ``total`` is None if that is unknown. The last step, ``rebuilding``, has the events of a rebuild.
    """

    step: str
    done: int
    total: int | None = None


@dataclass
class RecoveryReport:
    """The result: ``from_backup`` entries were in the table, ``entries`` are in it now, or would be in a dry run.

    ``from_redis`` and ``from_messages`` entries were added to it or raised, or would be. A dry run reads no message,
    but knows what an interrupted recovery has found that had read all of them. ``unproven`` conversations are not
    proved to be salted.
    ``skipped`` entries cannot be used: their ids or numbers are not valid, or the item in the backup is damaged.
    Of ``uncooled`` conversations the boundary was taken back: newest pages ask all salts again.
    ``rebuild`` is the report of the rebuild that followed; None in a dry run. ``consumed_rcu`` and ``consumed_wcu``
    are in capacity units, the latter if each entry has at most 1 KB.
    """

    plan: RecoveryPlan
    registry_id: str = ""
    entries: int = 0
    from_backup: int = 0
    from_redis: int = 0
    from_messages: int = 0
    skipped: int = 0
    consumed_rcu: float = 0.0
    consumed_wcu: int = 0
    seconds: float = 0.0
    dry_run: bool = False
    unproven: int = 0
    rebuild: events.RebuildReport | None = None
    uncooled: int = 0

    def check_unproven(self, choice: Unproven) -> None:
        """Raise IncompleteError if conversations are unproven, and nothing says what becomes of them."""
        if self.unproven and choice == "refuse":
            raise IncompleteError(
                f"conversations with too few messages to prove that they are salted: {self.unproven:,}; the table was "
                "not made the backup",
                hint="if no conversation id contains a '#', all of them are salted; raising too much hides nothing\n"
                "saltctl recover --unproven raise\n"
                "only if ids such as 'CONV#1' exist, use --unproven skip: it hides the salted messages of those named",
            )


def plan_recovery(
    settings: Settings,
    backup: BackupTable,
    messages: MessagesTable,
    reader: RedisBucketReader,
    verification: Verification | None,
) -> RecoveryPlan:
    """Return the plan. Reads no message and writes nothing.

    Raises:
        As :meth:`saltctl.registry.recovery.recover.Recovery.plan`.
    """
    table, redis_registry = _table_state(backup), registry_in_redis(reader, settings.layout)
    # A recovery that died after it had claimed the table left the registry before it in Redis.
    own = {"", *backup.registry.recorded_ids()} if table in ("intact", "restored") else {""}
    foreign = table == "intact" and redis_registry not in own
    verified = bool(redis_registry) and not foreign and is_verified(settings, redis_registry)
    elsewhere = Elsewhere.of(verification, settings.backup_table, backup.registry.region)
    conflict = _conflict(settings, table, redis_registry, own, elsewhere, backup.registry.region)
    # A Redis that was verified all the time has what a lost table had; but one that was verified from another table has
    # not. If the table is not lost, why this recovery?
    noted = verification is not None and verification.table == settings.backup_table  # in this Region: no conflict
    known = noted or redis_registry in own or redis_registry == settings.registry_id
    suffices = table != "intact" and verified and known and not conflict
    needed = not suffices and has_messages(messages, table)
    return RecoveryPlan(
        table,
        0 if table == "missing" else backup.size().items,
        sum(reader.count_entries(range(settings.buckets))),
        redis_registry,
        verified,
        not foreign,
        conflict,
        suffices,
        estimate_cost(messages, consistent=True) if needed else None,
        elsewhere,
    )


def has_messages(messages: MessagesTable, backup: TableState) -> bool:
    """Return whether there are messages to read. An intact backup is complete without them.

    Raises:
        ConfigurationError: the backup is not intact, and there is no messages table. Its name or the Region is wrong,
            or it was lost, too: that is not a table without messages.
    """
    exists = messages.describe() is not None
    if not exists and backup != "intact":
        missing = messages.missing()
        raise ConfigurationError(
            f"{missing.message}, and only the messages show which conversations are salted",
            hint=hint_of(missing.hint, "create it, empty, only if this registry never had messages in it"),
        )
    return exists


def _conflict(
    settings: Settings,
    table: TableState,
    redis_registry: str,
    own: set[str],
    elsewhere: Elsewhere | None,
    region: str,
) -> str:
    """Return why Redis seems to belong to another table; empty if nothing shows it."""
    name = settings.backup_table
    if redis_registry and len(own) > 1 and redis_registry not in own:
        origin = f", verified from table {elsewhere}," if elsewhere else ","
        return f"Redis belongs to registry {redis_registry}{origin} and table {name!r} is the backup of another one"
    if redis_registry and settings.registry_id not in (None, redis_registry) and table != "intact":
        return f"Redis belongs to registry {redis_registry}, and this client is set to {settings.registry_id}"
    # A rebuild of an intact table notes its own name.
    if not redis_registry or table == "intact" or elsewhere is None:
        return ""
    here = f"from {name!r}" if elsewhere.table not in ("", name) else f"in {region}"
    return f"Redis was verified from table {elsewhere}, and not {here}"


def registry_in_redis(reader: RedisBucketReader, layout: str) -> str:
    """Return the id of the registry that the fences name; empty without fences.

    Raises:
        ConfigurationError: fences name another layout, or several registries.
    """
    layouts = reader.fence_layouts()
    others = [found for found in layouts if found.rpartition(":")[0] != layout]
    if others or len(layouts) > 1:
        raise ConfigurationError(
            f"the fences in Redis name {len(layouts)} registries: {', '.join(sorted(layouts))}",
            hint="check SALTCTL_BUCKETS and SALTCTL_KEY_PREFIX; if they are right, delete the buckets of the other",
        )
    return next(iter(layouts), "").rpartition(":")[2]


def is_verified(settings: Settings, registry_id: str) -> bool:
    """Return whether every primary is verified for this registry."""
    with closing(RedisRegistry(settings, registry_id=lambda: registry_id)) as store:
        return all(store.verified().values())


def _table_state(backup: BackupTable) -> TableState:
    if backup.describe() is None:
        return "missing"
    backup.check_table()
    if not backup.registry.exists():
        return "unclaimed"
    try:
        backup.registry.read(recheck=True)
    except BackupLostError:
        return "restored"
    return "intact"
