"""A test of the promise on real processes under faults: every operation is logged, and the logs are checked afterwards.

``python -m tests.checker --minutes 30 --seed 7`` is a long run. The tests contain a short one.

``schedule`` draws the faults and their times. ``roles`` and ``killable_roles`` are the processes that write, read,
raise and rebuild. ``backup_loss`` loses the backup table, and ``recoverer`` recovers it. ``run`` starts the processes
and the servers, and injects the faults. ``log`` stores the operations of each process, and
``saltctl.canary.judge`` finds the violations in them.
"""
