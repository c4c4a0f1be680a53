"""What befalls Redis: kills, flushes, failovers; and how a replica and an AOF lag behind."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import StrEnum

from tests.model.servers import FRESH, Redis

Servers = tuple[Redis, ...]


class Failure(StrEnum):
    """What may befall a Redis."""

    KILL = "dies, its AOF survives"
    LOSE = "dies and loses everything"
    FLUSH = "is flushed"
    RENAME = "gets its first replica, and with it a new replication id"
    FAILOVER = "is promoted, and the other one demoted"
    MOVE = "is given the bucket's slot by the other one"


def beginning(servers: int, may_fail: Collection[Failure], read_only: bool) -> Servers:
    """All of them up and empty, the first with the bucket, the others its replicas or primaries of other slots."""
    if Failure.MOVE in may_fail:
        return tuple(Redis(replica=i > 0, identity=i) for i in range(servers))
    return tuple(Redis(replica=i > 0, in_step=i > 0, read_only=read_only) for i in range(servers))


def applied(servers: Servers, index: int, changed: Redis) -> Servers:
    """The servers with one of them changed, and its replica after it where that is in step."""
    if servers[index] == changed:
        return servers
    if changed.replica and changed.in_step and changed.bucket != servers[index].bucket:
        # A replica that was written to is itself no longer; not even where its primary moves on.
        changed = changed._replace(in_step=False)
    after = (*servers[:index], changed, *servers[index + 1 :])
    return tuple(
        other._replace(bucket=changed.bucket, identity=changed.identity)
        if other.replica and other.in_step and not changed.replica
        else other
        for other in after
    )


def fates(
    servers: Servers, failures_left: int | None, may_fail: Collection[Failure]
) -> Iterator[tuple[int, str, Servers, int | None]]:
    """Everything that can befall them now: whom, how it reads, the servers and the failures left after it.

    ``failures_left`` None: without end.
    """
    for index, server in enumerate(servers):
        if not server.up:
            started = server._replace(up=True, identity=FRESH)
            yield index, "starts", applied(servers, index, started), failures_left
        elif failures_left != 0:
            for label, changed in _lags(servers, server, may_fail):
                yield index, label, applied(servers, index, changed), failures_left
            for failure in may_fail:
                befallen = _befall(failure, servers, index)
                if befallen is not None:
                    left = None if failures_left is None else failures_left - 1
                    yield index, failure, _without_the_irrelevant(befallen) if left == 0 else befallen, left


def _lags(servers: Servers, server: Redis, may_fail: Collection[Failure]) -> Iterator[tuple[str, Redis]]:
    if server.durable is None and Failure.KILL in may_fail:
        yield "writes its AOF for the last time", server._replace(durable=server.bucket)
    if not server.replica or Failure.FAILOVER not in may_fail:
        return
    if server.in_step:
        yield "falls behind", server._replace(in_step=False)
        return
    primary = next(other for other in servers if not other.replica)
    if primary.up:
        yield "catches up", server._replace(in_step=True, bucket=primary.bucket, identity=primary.identity)


def _befall(failure: Failure, servers: Servers, index: int) -> Servers | None:
    """The servers after a failure of one, or None where it cannot befall this one."""
    server = servers[index]
    match failure:
        case Failure.KILL | Failure.LOSE:
            survived = server.bucket if server.durable is None else server.durable
            bucket = survived if failure is Failure.KILL else ()
            dead = Redis(up=False, replica=server.replica, bucket=bucket, read_only=server.read_only)
            # A replica that has lost its primary keeps what it has.
            return tuple(dead if at == index else other._replace(in_step=False) for at, other in enumerate(servers))
        case Failure.FLUSH if not server.replica:
            return applied(servers, index, server._replace(bucket=()))
        case Failure.RENAME if not server.replica:
            return applied(servers, index, server._replace(identity=FRESH))
        case Failure.FAILOVER if server.replica:
            # At once: a demoted primary that does not know it yet is outside the promise (design: known limit).
            promoted = server._replace(replica=False, in_step=False, identity=FRESH)
            return tuple(promoted if at == index else other._replace(replica=True) for at, other in enumerate(servers))
        case Failure.MOVE if server.replica and (owner := servers[1 - index]).up:
            # In a cluster both are primaries, and who lacks the slot refuses every command just as a replica does.
            taker, giver = server._replace(replica=False, bucket=owner.bucket), owner._replace(replica=True, bucket=())
            return tuple(taker if at == index else giver for at in range(2))
    return None


def _without_the_irrelevant(servers: Servers) -> Servers:
    """Nobody will ever see a copy when nothing fails any more."""
    return tuple(
        server._replace(durable=None, bucket=() if server.replica else server.bucket, in_step=False)
        for server in servers
    )
