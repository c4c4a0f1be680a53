"""Failures of Redis: kills, flushes, failovers; and the lag of a replica and of an AOF."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum

from tests.model.servers import NEW_IDENTITY, Redis

Servers = tuple[Redis, ...]


class Failure(StrEnum):
    """A failure of one Redis."""

    KILL = "dies, its AOF survives"
    LOSE = "dies and loses everything"
    FLUSH = "is flushed"
    RENAME = "gets its first replica, and with it a new replication id"
    FAILOVER = "is promoted, and the other one demoted"
    DEPOSE = "is promoted, and the other one, paused or cut off, goes on as a primary"
    DEPOSE_LATE = "is promoted, while the other one goes on as a primary, and is named as it"
    MOVE = "is given the bucket's slot by the other one"


PROMOTIONS = {Failure.FAILOVER, Failure.DEPOSE, Failure.DEPOSE_LATE}
"""The failures after which it makes a difference how far a replica is."""


def initial_servers(servers: int, may_fail: Collection[Failure], read_only: bool) -> Servers:
    """Return servers that are up and empty: the owner of the bucket, and its replicas or primaries of other slots."""
    if Failure.MOVE in may_fail:
        return tuple(Redis(replica=i > 0, identity=i) for i in range(servers))
    return tuple(Redis(replica=i > 0, in_step=i > 0, read_only=read_only) for i in range(servers))


def with_change(servers: Servers, index: int, changed: Redis) -> Servers:
    """Return the servers with one of them changed, and its replicas that are in step changed alike."""
    if servers[index] == changed:
        return servers
    if changed.replica and changed.in_step and changed.bucket != servers[index].bucket:
        # A replica that was written to is no longer a copy of its primary, even if it was in step.
        changed = changed._replace(in_step=False)
    after = (*servers[:index], changed, *servers[index + 1 :])
    return tuple(
        other._replace(bucket=changed.bucket, identity=changed.identity)
        if other.replica and other.in_step and not changed.replica
        else other
        for other in after
    )


def server_events(
    servers: Servers, failures_left: int | None, may_fail: Collection[Failure], promised: int
) -> Iterator[tuple[int, str, Servers, int | None]]:
    """Yield every start, lag and failure that is possible now.

    Each is the index of the server, a label, and the servers and the failures left after it. ``failures_left`` is
    None if their number is not bounded. ``promised`` is what a primary owes if it is deposed now.
    """
    for index, server in enumerate(servers):
        for label, changed in _late_news(server):
            after = with_change(servers, index, changed)
            yield index, label, _without_unused_copies(after) if failures_left == 0 else after, failures_left
        if not server.up:
            started = server._replace(up=True, identity=NEW_IDENTITY)
            yield index, "starts", with_change(servers, index, started), failures_left
        elif failures_left != 0:
            for label, changed in _replication_lag(servers, server, may_fail):
                yield index, label, with_change(servers, index, changed), failures_left
            for failure in may_fail:
                failed = _fail(failure, servers, index, promised)
                if failed is not None:
                    left = None if failures_left is None else failures_left - 1
                    yield index, failure, _without_unused_copies(failed) if left == 0 else failed, left


def _late_news(server: Redis) -> Iterator[tuple[str, Redis]]:
    if server.named:
        yield "is not named as the primary any more", server._replace(named=False)
    if server.deposed:
        # Its clients may reach it as a replica; who asks is told the other one.
        yield "learns that it is a replica", server._replace(replica=True, deposed=False, named=False, owed=0)


def _replication_lag(servers: Servers, server: Redis, may_fail: Collection[Failure]) -> Iterator[tuple[str, Redis]]:
    if server.durable is None and Failure.KILL in may_fail:
        yield "writes its AOF for the last time", server._replace(durable=server.bucket)
    if not server.replica or PROMOTIONS.isdisjoint(may_fail):
        return
    if server.in_step:
        yield "falls behind", server._replace(in_step=False)
        return
    primary = next(other for other in servers if not other.replica)  # two servers: the other one
    if primary.up:
        yield "catches up", server._replace(in_step=True, bucket=primary.bucket, identity=primary.identity)


def _fail(failure: Failure, servers: Servers, index: int, promised: int) -> Servers | None:
    """Return the servers after a failure of one, or None if this server cannot fail in this way."""
    server = servers[index]
    match failure:
        case Failure.KILL | Failure.LOSE:
            survived = server.bucket if server.durable is None else server.durable
            bucket = survived if failure is Failure.KILL else ()
            dead = server._replace(up=False, knows_lookup=False, identity=0, bucket=bucket, durable=None, in_step=False)
            # A replica that has lost its primary keeps what it has.
            return tuple(dead if at == index else other._replace(in_step=False) for at, other in enumerate(servers))
        case Failure.FLUSH if not server.replica:
            return with_change(servers, index, server._replace(bucket=()))
        case Failure.RENAME if not server.replica:
            return with_change(servers, index, server._replace(identity=NEW_IDENTITY))
        case Failure.FAILOVER if server.replica:
            promoted = server._replace(replica=False, in_step=False, identity=NEW_IDENTITY)
            return tuple(promoted if at == index else other._replace(replica=True) for at, other in enumerate(servers))
        case Failure.DEPOSE | Failure.DEPOSE_LATE if server.replica:
            named = failure is Failure.DEPOSE_LATE
            promoted = server._replace(replica=False, in_step=False, identity=NEW_IDENTITY)
            return tuple(
                promoted if at == index else other._replace(deposed=True, named=named, owed=promised)
                for at, other in enumerate(servers)
            )
        case Failure.MOVE if server.replica and (owner := servers[1 - index]).up:
            # In a cluster both are primaries. The one without the slot refuses every command, as a replica does.
            taker, giver = server._replace(replica=False, bucket=owner.bucket), owner._replace(replica=True, bucket=())
            return tuple(taker if at == index else giver for at in range(2))
    return None


def _without_unused_copies(servers: Servers) -> Servers:
    """Drop copies that no failure will bring back, so that states that differ only in them are one."""
    return tuple(
        server._replace(durable=None, bucket=() if server.replica else server.bucket, in_step=False)
        for server in servers
    )
