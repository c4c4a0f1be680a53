"""Checks of the Redis servers: whether they can keep the promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import update_wrapper

from saltctl.commands import commands_in, is_command
from saltctl.errors import AccessDeniedError, SaltctlError, UnavailableError
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, clock_skew, combine, fail, ok, skip, warn
from saltctl.stores.redis.inspection import RegistryCounts, ServerInfo
from saltctl.stores.redis.replies.platforms import (
    UNNAMED_VERSION,
    evicts_entries,
    is_too_old,
    look_alike,
    shown_version,
)
from saltctl.stores.redis.replies.replicas import Replicas
from saltctl.urls import parse_redis_url

MEMORY_WARN, MEMORY_FAIL = 0.75, 0.9
"""Shares of the memory that a server may use."""
DEFAULT_MAX_LAG = 3
"""Seconds for min-replicas-max-lag. A replica acknowledges every second. A failover takes 30 s with Sentinel and
15 s in a cluster, by default (documented)."""
RECOUNT_SECONDS = 2
"""Seconds after the lag bound within which a primary refuses: it counts lags in whole seconds, once a second."""
_COST = "the loss of one replica stops raises and sends lookups to the backup"
_MEBI = 2**20


_UNTIL_RESTART = (
    "the server shows no configuration file: CONFIG SET may not outlast a restart, so change the options of its start"
)


def each_primary(check: Callable[[Facts, ServerInfo], Finding]) -> Callable[[Facts], Finding]:
    """Make a check of one server a check of all primaries. Values of another form than those of Redis skip it."""

    def check_one(facts: Facts, server: ServerInfo) -> Finding:
        """Check one server. A change that a restart undoes says so."""
        try:
            found = check(facts, server)
            lasts = " CONFIG SET " not in found.fix or " CONFIG REWRITE" in found.fix
            return found if lasts else replace(found, detail=f"{found.detail}; {_UNTIL_RESTART}")
        except (ValueError, TypeError, KeyError) as exc:
            return skip(f"{server.primary} shows a value of another form than Redis: {exc}")

    return update_wrapper(lambda facts: combine(check_one(facts, server) for server in facts.servers), check)


def reachable(facts: Facts) -> Finding:
    """Every primary answers and has loaded its data."""
    commands = facts.fix_commands
    if not facts.settings.redis_url:
        return fail("no Redis is configured", commands.export(SALTCTL_REDIS_URL="redis://127.0.0.1:6379/0"))
    try:
        servers = facts.servers
    except SaltctlError as exc:
        sentences = [line for line in exc.hint.splitlines() if not is_command(line)]
        told = [exc.message, *sentences] if isinstance(exc, AccessDeniedError) else [exc.message]
        return fail(": ".join(told), _fix_of(exc, facts))
    findings = []
    for server in servers:
        if server.info.get("loading") == 1:
            detail = f"{server.primary} is loading its data, {float(server.info.get('loading_loaded_perc', 0)):.0f} %"
            findings.append(fail(detail, commands.saltctl("rebuild", "--wait-redis", "15m")))
        else:
            detail = f"{server.primary} answers in {server.seconds * 1000:.1f} ms"
            findings.append(ok(detail, redis_seconds=server.seconds))
    return combine(findings)


def _fix_of(exc: SaltctlError, facts: Facts) -> str:
    """Return the command that shows what the server itself says, or the one that its hint has."""
    commands = facts.fix_commands
    url = parse_redis_url(facts.settings.require_redis_url())
    if isinstance(exc, UnavailableError) and not exc.answered:
        server = str(url.addresses[0]) if url.addresses else f"/{url.path}"
        return commands.redis_cli(server, "PING")
    named = commands_in(exc.hint)
    return named[0] if named else commands.saltctl("config", "show")


def version(facts: Facts, server: ServerInfo) -> Finding:
    """The server is Redis 7 or newer, or Valkey: older versions replicate the script cache, and so the fence."""
    number = shown_version(server.info)
    if (engine := look_alike(server.info)) is not None:
        detail = f"{server.primary} is {engine}, which is not known to keep what the fence needs"
        return fail(detail, facts.fix_commands.saltctl("doctor", "--probe-platform"))
    if is_too_old(number):
        problem = f"is Redis {number}: it replicates the script cache, and so the fence" if number else UNNAMED_VERSION
        return fail(f"{server.primary} {problem}", facts.fix_commands.redis_cli(server.primary, "INFO", "server"))
    if server.info.get("server_name") == "valkey":
        return ok(f"Valkey {server.info.get('valkey_version', number)}")
    return ok(f"Redis {number}")


def tls(facts: Facts) -> Finding:
    """Traffic over a network is encrypted."""
    redis_url = facts.settings.require_redis_url()
    url = parse_redis_url(redis_url)
    remote = [address.host for address in url.addresses if address.host not in ("127.0.0.1", "::1", "localhost")]
    if not remote:
        return ok("the traffic stays on this machine")
    if url.tls:
        return ok("TLS")
    return warn(
        f"{redis_url.partition('://')[0]}:// to {', '.join(remote)}: the password and conversation ids are not "
        "encrypted",
        'export SALTCTL_REDIS_URL="$(echo "$SALTCTL_REDIS_URL" | sed s/^redis/rediss/)"',
    )


def role(facts: Facts, server: ServerInfo) -> Finding:
    """The configured servers are primaries."""
    info = server.info
    if info.get("role") == "master":
        replicas = int(info.get("connected_slaves", 0))
        return ok(f"primary with {replicas} {'replica' if replicas == 1 else 'replicas'}")
    if info.get("role") is None:
        return skip(f"{server.primary} does not show its role in INFO")
    primary = f"{info.get('master_host')}:{info.get('master_port')}"
    detail = f"{server.primary} is a replica of {primary}: it refuses lookups and raises"
    return fail(detail, facts.fix_commands.replace_server(server.primary, primary))


def _config_set(facts: Facts, server: ServerInfo, **values: str | int) -> str:
    return facts.fix_commands.config_set(server.primary, server.info, facts.platform(server), **values)


def aof(facts: Facts, server: ServerInfo) -> Finding:
    """An AOF restores the entries after a restart, so only the verification remains."""
    if (enabled := server.info.get("aof_enabled")) is None:
        return skip(f"{server.primary} does not show in INFO whether it has an AOF")
    if int(enabled):
        return ok("on")
    detail = f"{server.primary} has no AOF: after a restart every entry must be restored from the backup"
    return warn(detail, _config_set(facts, server, appendonly="yes"))


def fsync(facts: Facts, server: ServerInfo) -> Finding:
    """The AOF is written to disk within a second."""
    if not int(server.info.get("aof_enabled", 0)):
        return skip("there is no AOF: see redis-aof")
    value = (facts.config(server.primary) or {}).get("appendfsync")
    if value is None:
        return skip(f"{server.primary} refuses CONFIG GET, as managed servers do")
    if value != "no":
        return ok(f"appendfsync {value}")
    detail = f"{server.primary} has appendfsync no: a crash of its machine loses up to 30 s of raises from the AOF"
    return warn(detail, _config_set(facts, server, appendfsync="everysec"))


def persistence(facts: Facts, server: ServerInfo) -> Finding:
    """The latest AOF write and the latest AOF rewrite succeeded."""
    info, commands = server.info, facts.fix_commands
    if info.get("aof_last_write_status", "ok") != "ok":
        detail = f"{server.primary} cannot write its AOF and refuses raises (MISCONF): check for a full disk"
        return fail(detail, commands.redis_cli(server.primary, "INFO", "persistence"))
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        detail = f"{server.primary} cannot rewrite its AOF, which grows: check its log, memory and disk"
        if (platform := facts.platform(server)) is not None:
            return warn(detail, f"{platform.name} rewrites its AOF itself: ask its support")
        return warn(detail, commands.redis_cli(server.primary, "BGREWRITEAOF"))
    if not int(info.get("aof_enabled", 0)):
        return skip("there is no AOF: see redis-aof")
    return ok("the latest write and the latest rewrite succeeded")


def eviction(facts: Facts, server: ServerInfo) -> Finding:
    """Redis evicts nothing: without its entry a salted conversation looks empty."""
    policy = str(server.info.get("maxmemory_policy", ""))
    if not policy:
        return skip(f"{server.primary} does not show its maxmemory-policy in INFO")
    if not evicts_entries(policy):
        return ok(policy if policy == "noeviction" else f"{policy}: the registry's keys have no TTL")
    detail = f"{server.primary} evicts entries: its maxmemory-policy is {policy}"
    return fail(detail, _config_set(facts, server, maxmemory_policy="noeviction"))


def memory(facts: Facts, server: ServerInfo) -> Finding:
    """Redis has free memory: a full server refuses raises."""
    info = server.info
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    machine = int(info.get("total_system_memory", 0))
    available = limit or machine
    if not available:
        return skip(f"{server.primary} does not show how much memory it has")
    share = used / available
    source = "of maxmemory" if limit else "of its machine, without maxmemory"
    detail = f"{server.primary} uses {used / _MEBI:,.1f} of {available / _MEBI:,.0f} MiB {source}"
    if share < MEMORY_WARN:
        return ok(detail, redis_memory_share=share)
    doubled = 2 * max(used, limit)
    if facts.platform(server) or (limit and (not machine or doubled < MEMORY_FAIL * machine)):
        fix = _config_set(facts, server, maxmemory=doubled)
    else:
        fix = facts.fix_commands.redis_cli(server.primary, "MEMORY", "DOCTOR")
    rate = fail if share >= MEMORY_FAIL else warn
    return rate(f"{detail}; when it is full it refuses raises", fix, redis_memory_share=share)


def min_replicas(facts: Facts, server: ServerInfo) -> Finding:
    """A primary that is cut off from a replica stops answering before that replica is promoted.

    For this it has to ask for all of its replicas: with fewer, it may keep enough of them while another is promoted.
    Those that may not be promoted count, too, because Redis counts them as good replicas.
    """
    replicas = facts.replicas(server)
    if "min_slaves_good_slaves" not in server.info:  # INFO shows it only if both settings are above 0
        if not replicas.count or not replicas.promotable:
            return ok(f"no replica {'may be promoted' if replicas.count else 'exists'}, so there is no failover")
        return _ask_for_all(facts, server, replicas, "no min-replicas-to-write")
    return _with_min_replicas(facts, server, replicas)


def _with_min_replicas(facts: Facts, server: ServerInfo, replicas: Replicas) -> Finding:
    """Rate a primary that has both settings."""
    good, config = int(server.info["min_slaves_good_slaves"]), facts.config(server.primary) or {}
    value = int(config.get("min-replicas-to-write", 0))
    if good < max(value, 1):
        setting = f"min-replicas-to-write {value}" if value else "min-replicas-to-write"
        detail = f"{server.primary} has {good} good {'replica' if good == 1 else 'replicas'}, fewer than {setting}"
        fix = facts.fix_commands.redis_cli(server.primary, "INFO", "replication")
        return fail(f"{detail}: it refuses raises, and lookups use the backup, until its replicas are back", fix)
    if not value:
        return skip(
            f"{server.primary} refuses CONFIG GET: check that min-replicas-to-write is {replicas.count} there, and "
            f"min-replicas-max-lag {RECOUNT_SECONDS} s below the failover time"
        )
    if value < replicas.count and replicas.promotable:
        return _ask_for_all(facts, server, replicas, f"min-replicas-to-write {value}")
    return _lag_bound(facts, server, replicas, int(config["min-replicas-max-lag"]), value)


def _lag_bound(facts: Facts, server: ServerInfo, replicas: Replicas, lag: int, value: int) -> Finding:
    """Rate the lag bound of a primary that asks for enough replicas."""
    failover = replicas.failover_seconds
    if failover is not None and lag + RECOUNT_SECONDS > failover:
        detail = f"{server.primary} has min-replicas-max-lag {lag}, and a failover begins after {failover:g} s"
        return warn(f"{detail}: for a while there are two primaries", _set_min_replicas(facts, server, replicas))
    below = "keep it below the failover" if failover is None else f"a failover begins after {failover:g} s"
    return ok(f"min-replicas-to-write {value}, lag bound {lag} s: {below}; {_COST}")


def _ask_for_all(facts: Facts, server: ServerInfo, replicas: Replicas, setting: str) -> Finding:
    """Report a primary that goes on while one of its replicas is promoted."""
    number = f"{replicas.count} {'replica' if replicas.count == 1 else 'replicas'}"
    detail = (
        f"{server.primary} has {number} and {setting}: cut off from one that is promoted, it keeps serving old entries"
    )
    if not replicas.missing:
        known = "" if replicas.complete else "; a replica that is down now is not counted"
        return warn(f"{detail}; with {replicas.count}, {_COST}{known}", _set_min_replicas(facts, server, replicas))
    # The fix would stop raises now.
    detail += f". Not connected: {', '.join(replicas.missing)}"
    if facts.platform(server) is None:
        forget = "CLUSTER FORGET" if int(server.info.get("cluster_enabled", 0)) else "SENTINEL RESET"
        detail += f". Start it first, or if it is gone for good, remove it with {forget}"
    return warn(detail, facts.fix_commands.redis_cli(server.primary, "INFO", "replication"))


def _set_min_replicas(facts: Facts, server: ServerInfo, replicas: Replicas) -> str:
    lag = DEFAULT_MAX_LAG
    if replicas.failover_seconds is not None:
        lag = max(1, min(lag, int(replicas.failover_seconds) - RECOUNT_SECONDS))
    values = {"min_replicas_to_write": replicas.count, "min_replicas_max_lag": lag}
    return _config_set(facts, server, **values)


def _overwritten(facts: Facts, counts: RegistryCounts) -> Finding:
    """Report buckets that are no hashes: lookups of them use the backup, and no rebuild can verify Redis."""
    first, *others = counts.overwritten
    names = f"{first} and {len(others):,} more" if others else first
    detail = f"{counts.primary}: another program wrote another type of value to {names}: delete it, then rebuild"
    return fail(detail, facts.fix_commands.redis_cli(counts.primary, "DEL", first), registry_verified=0)


def clock(_: Facts, server: ServerInfo) -> Finding:
    """The clocks of Redis and of this machine agree."""
    if server.skew is None:
        return skip(f"{server.primary} does not show its time")
    return clock_skew(f"the clock of {server.primary}", server.skew, "redis_clock_skew_seconds")


def verified(facts: Facts) -> Finding:
    """Every bucket of every primary is verified."""
    findings = []
    for counts in facts.registry_counts:
        if counts.verified:
            detail = f"{counts.primary}: all {counts.buckets:,} buckets, {counts.entries:,} entries"
            findings.append(ok(detail, registry_verified=1, registry_entries=counts.entries))
            continue
        if counts.overwritten:
            findings.append(_overwritten(facts, counts))
            continue
        if counts.refused:
            detail = f"{counts.primary} is not verified: {counts.refused}: lookups use the backup"
            findings.append(fail(detail, facts.fix_commands.saltctl("config", "show"), registry_verified=0))
            continue
        if other := facts.other_registry:
            findings.append(fail(f"{counts.primary} {other}", facts.fix_commands.saltctl("config", "show")))
            continue
        unfenced = f"{counts.buckets - counts.fenced:,} of {counts.buckets:,} buckets have no valid fence"
        reason = unfenced if counts.loaded else "it restarted or was never rebuilt"
        detail = f"{counts.primary} is not verified ({reason}): lookups use the backup"
        findings.append(fail(detail, facts.fix_commands.saltctl("rebuild"), registry_verified=0))
    return combine(findings)
