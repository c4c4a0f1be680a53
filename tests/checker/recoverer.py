"""The role that recovers a lost backup table: processes that run ``saltctl recover``, and are killed."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, cast

from saltctl.errors import SaltctlError
from saltctl.history.models import message_id_of
from saltctl.rebuild.options import RebuildOptions
from saltctl.registry.recovery.recover import Recovery
from saltctl.registry.recovery.recovery_plan import RecoveryReport
from saltctl.stores.heat.service_state import Verification
from tests.checker.backup_loss import recovery_request
from tests.checker.killable_roles import BeforeCall, HookedStore, PlannedDeath, rebuild_job
from tests.checker.processes import fork, reap
from tests.checker.roles import CLOCK_RATE, Worker

RECOVERY_LOCK_WAIT = 100.0
"""Seconds, by the faster clock, for which a recovery waits for a rebuild that is in progress."""
RECOVERY_LEASE = 60.0
"""Seconds, by the faster clock, by which the lease of a recovery lasts longer: it renews it less often."""


class _HookedBackup(HookedStore):
    """The backup of a recovery: with hooks before its writes, and those of its lease and of the registry's item."""

    def __init__(self, inner: Any, before_call: BeforeCall) -> None:
        super().__init__(inner, before_call, ("create_table", "scan", "restore", "check_registry", "commit_write_n"))
        self.lease = HookedStore(inner.lease, before_call, ("acquire", "release"))
        self.registry = HookedStore(inner.registry, before_call, ("table_identity", "claim", "note_rebuild"))


def recoverer(worker: Worker) -> None:
    """Recover whenever that is wanted, in a new process each time; some are killed."""
    worker.prepare()
    while worker.pause(0.3):
        if recovery_request(worker.log.directory).exists():
            death = PlannedDeath(worker, "recovery", 14, worker.plan.recovery_kill_probability)
            death.log_alarm(reap(fork(worker.log, partial(_recover, worker, death))))


def _recover(worker: Worker, death: PlannedDeath) -> None:
    """Recover as ``saltctl recover --yes --unproven raise --lock-wait 100s`` does."""
    messages = worker.classes.recovered_messages(worker.settings)
    death.arm()
    job = Recovery(
        worker.settings,
        worker.store(),
        cast("Any", _HookedBackup(worker.backup, death.before_call)),
        messages,
        lambda row: message_id_of(row, messages.keys, None),
        RebuildOptions(segments=2, lock_wait=RECOVERY_LOCK_WAIT),
        verification=lambda: Verification(0.0, (), worker.settings.backup_table),
        unproven="raise",  # a few messages prove no salts, and these ids have no '#'
        new_rebuild=lambda *_: rebuild_job(
            worker, death.before_call, replace_registry=True, lock_wait=RECOVERY_LOCK_WAIT
        ),
        clock=lambda: CLOCK_RATE * time.monotonic(),
        now=lambda: CLOCK_RATE * time.time() + RECOVERY_LEASE,
    )
    try:
        report = list(job.run(job.plan()))[-1]
    except SaltctlError as exc:
        worker.log.note("recovery", exc.code)
        return
    assert isinstance(report, RecoveryReport)
    assert not report.skipped, report
    worker.log.note("recovery", f"completed, the table was {report.plan.table}")
    recovery_request(worker.log.directory).unlink()
