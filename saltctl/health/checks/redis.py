"""Checks of Redis: can it keep the promise, and does it now?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from saltctl.errors import AccessDeniedError, SaltctlError
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, combine, fail, ok, skip, warn
from saltctl.urls import parse_redis_url

MEMORY_WARN, MEMORY_FAIL = 0.75, 0.9
SKEW_WARN, SKEW_FAIL = 5.0, 60.0
"""Seconds. Leases and the age of windows are told by clocks; a lease expires after 30 s."""
DEFAULT_MAX_LAG = 3
"""Seconds that min-replicas-max-lag is to be: replicas sign in every second, and Sentinel's own default needs 30 s
to fail over, a cluster's 15 s (documented)."""
_MEBI = 2**20


def reachable(facts: Facts) -> Finding:
    """Every primary answers, and has loaded its data."""
    return combine(_reachable(facts))


def _reachable(facts: Facts) -> Iterable[Finding]:
    commands = facts.fix_commands
    if not facts.settings.redis_url:
        example = commands.set_variable("SALTCTL_REDIS_URL", "redis://127.0.0.1:6379/0")
        yield fail("no Redis is configured", example)
        return
    try:
        servers = facts.servers
    except AccessDeniedError as exc:
        yield fail(exc.message, commands.saltctl("config", "show"))
        return
    except SaltctlError as exc:
        yield fail(exc.message, exc.hint if exc.hint.startswith("saltctl ") else commands.saltctl("config", "show"))
        return
    for server in servers:
        if int(server.info.get("loading", 0)):
            percent = float(server.info.get("loading_loaded_perc", 0.0))
            detail = f"{server.primary} is loading its data, {percent:.0f} %"
            yield fail(detail, commands.saltctl("rebuild", "--wait-redis", "15m"))
        else:
            yield ok(f"{server.primary} answers in {server.seconds * 1000:.1f} ms", redis_seconds=server.seconds)


def version(facts: Facts) -> Finding:
    """Redis 7 or newer, or Valkey: older ones replicate their script cache, and the fence with it."""
    return combine(_version(facts, server.primary, server.info) for server in facts.servers)


def _version(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    number = str(info.get("redis_version", "0"))
    first = number.partition(".")[0]
    major = int(first) if first.isdigit() else 0
    if info.get("server_name") == "valkey":
        return ok(f"Valkey {info.get('valkey_version', number)}")
    if major < 7:
        detail = f"{primary} is Redis {number}: its replicas copy the script cache, and with it the fence"
        return fail(detail, facts.fix_commands.redis(primary, "INFO", "server"))
    return ok(f"Redis {number}")


def tls(facts: Facts) -> Finding:
    """Nothing travels over a network in the clear."""
    whole = facts.settings.require_redis_url()
    url = parse_redis_url(whole)
    away = [address.host for address in url.addresses if address.host not in ("127.0.0.1", "::1", "localhost")]
    if not away:
        return ok("it does not leave this machine")
    if url.tls:
        return ok("TLS")
    return warn(
        f"{whole.partition('://')[0]}:// to {', '.join(away)}: the password and every conversation id travel in the "
        "clear",
        'export SALTCTL_REDIS_URL="$(echo "$SALTCTL_REDIS_URL" | sed s/^redis/rediss/)"',
    )


def role(facts: Facts) -> Finding:
    """What is called a primary is one."""
    return combine(_role(facts, server.primary, server.info) for server in facts.servers)


def _role(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    if info.get("role") == "master":
        replicas = int(info.get("connected_slaves", 0))
        return ok(f"primary with {replicas} {'replica' if replicas == 1 else 'replicas'}")
    theirs = f"{info.get('master_host')}:{info.get('master_port')}"
    detail = f"{primary} is a replica of {theirs}: it answers no lookup and takes no raise"
    return fail(detail, facts.fix_commands.other_server(primary, theirs))


def aof(facts: Facts) -> Finding:
    """With an AOF a restart brings the entries back, and only the verification is left to do."""
    return combine(_aof(facts, server.primary, server.info) for server in facts.servers)


def _aof(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    if int(info.get("aof_enabled", 0)):
        return ok("on")
    detail = f"{primary} has no AOF: after a restart every entry has to come from the backup"
    return warn(detail, facts.fix_commands.set_redis(primary, info, appendonly="yes"))


def fsync(facts: Facts) -> Finding:
    """The AOF reaches the disk within a second."""
    return combine(_fsync(facts, server.primary, server.info) for server in facts.servers)


def _fsync(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    if not int(info.get("aof_enabled", 0)):
        return skip("there is no AOF: see redis-aof")
    config = facts.config(primary)
    if config is None or "appendfsync" not in config:
        return skip(f"{primary} refuses CONFIG GET, as managed servers do")
    value = config["appendfsync"]
    if value != "no":
        return ok(f"appendfsync {value}")
    detail = f"{primary} has appendfsync no: a crash of its machine loses up to half a minute of raises from the AOF"
    return warn(detail, facts.fix_commands.set_redis(primary, info, appendfsync="everysec"))


def persistence(facts: Facts) -> Finding:
    """The latest write to the AOF, and its latest rewrite, were done."""
    return combine(_persistence(facts, server.primary, server.info) for server in facts.servers)


def _persistence(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    if info.get("aof_last_write_status", "ok") != "ok":
        detail = f"{primary} cannot write its AOF, and refuses every raise (MISCONF): is its disk full?"
        return fail(detail, facts.fix_commands.redis(primary, "INFO", "persistence"))
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        detail = f"{primary} could not rewrite its AOF, which grows: look at its log, its memory and its disk"
        return warn(detail, facts.fix_commands.redis(primary, "BGREWRITEAOF"))
    if not int(info.get("aof_enabled", 0)):
        return skip("there is no AOF: see redis-aof")
    return ok("the latest write and the latest rewrite were done")


def eviction(facts: Facts) -> Finding:
    """Nothing is evicted: an entry that is gone is a conversation that looks empty."""
    return combine(_eviction(facts, server.primary, server.info) for server in facts.servers)


def _eviction(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    policy = str(info.get("maxmemory_policy", ""))
    if not policy:
        return skip(f"{primary} does not show its maxmemory-policy in INFO")
    if policy == "noeviction":
        return ok("noeviction")
    detail = f"{primary} evicts entries: its maxmemory-policy is {policy}"
    return fail(detail, facts.fix_commands.set_redis(primary, info, maxmemory_policy="noeviction"))


def memory(facts: Facts) -> Finding:
    """There is room for what is to come: a full Redis takes no more raises."""
    return combine(_memory(facts, server.primary, server.info) for server in facts.servers)


def _memory(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    machine = int(info.get("total_system_memory", 0))
    room = limit or machine
    if not room:
        return skip(f"{primary} does not show how much memory it has")
    share = used / room
    whose = "of maxmemory" if limit else "of its machine, without maxmemory"
    detail = f"{primary} uses {used / _MEBI:,.1f} of {room / _MEBI:,.0f} MiB {whose}"
    if share < MEMORY_WARN:
        return ok(detail, redis_memory_share=share)
    more = 2 * max(used, limit)
    if limit and (not machine or more < MEMORY_FAIL * machine):
        fix = facts.fix_commands.set_redis(primary, info, maxmemory=more)
    else:
        fix = facts.fix_commands.redis(primary, "MEMORY", "DOCTOR")
    judged = fail if share >= MEMORY_FAIL else warn
    return judged(f"{detail}; when it is full it refuses every raise", fix, redis_memory_share=share)


def min_replicas(facts: Facts) -> Finding:
    """A primary that is cut off from its replicas stops answering before another one is promoted."""
    return combine(_min_replicas(facts, server.primary, server.info) for server in facts.servers)


def _min_replicas(facts: Facts, primary: str, info: Mapping[str, Any]) -> Finding:
    replicas = int(info.get("connected_slaves", 0))
    if not replicas and "min_slaves_good_slaves" not in info:
        return ok("no replicas, so no other primary can take its place")
    fix = facts.fix_commands.set_redis(primary, info, min_replicas_to_write=1, min_replicas_max_lag=DEFAULT_MAX_LAG)
    if "min_slaves_good_slaves" not in info:  # INFO has it only where both settings are above 0
        return warn(
            f"{primary} has {replicas} replicas and no min-replicas-to-write: cut off from them it goes on serving "
            "what it has, while another primary takes raises",
            fix,
        )
    config = facts.config(primary)
    if config is None or "min-replicas-max-lag" not in config:
        return ok("min-replicas-to-write is set; its lag bound is not shown, since CONFIG GET is refused")
    lag, failover = int(config["min-replicas-max-lag"]), int(config.get("cluster-node-timeout") or 15000) / 1000
    if int(info.get("cluster_enabled", 0)) and lag >= failover:
        detail = f"{primary} has min-replicas-max-lag {lag}, not below cluster-node-timeout ({failover:g} s)"
        return warn(f"{detail}: for a while there are two primaries", fix)
    return ok(f"min-replicas-to-write {config['min-replicas-to-write']}, lag bound {lag} s: keep it below the failover")


def verified(facts: Facts) -> Finding:
    """Every bucket of every primary was proved to hold what the backup holds."""
    findings = []
    for counts in facts.registry_counts:
        if counts.verified:
            detail = f"{counts.primary}: all {counts.buckets:,} buckets, {counts.entries:,} entries"
            findings.append(ok(detail, registry_verified=1, registry_entries=counts.entries))
            continue
        if not counts.loaded:
            why = "it (re)started since"
        else:
            why = f"{counts.buckets - counts.fenced:,} of {counts.buckets:,} buckets have no fence of its own"
        detail = f"{counts.primary} is not verified: {why}; every lookup asks the backup"
        findings.append(fail(detail, facts.fix_commands.saltctl("rebuild"), registry_verified=0))
    return combine(findings)


def layout(facts: Facts) -> Finding:
    """The bucket count and prefix of this client are those that the table, and Redis, are bound to."""
    bound = facts.backup.bound_layout()
    ours = (facts.settings.layout, facts.settings.key_prefix)
    if bound is None:
        return warn("the backup table is bound to no layout yet", facts.fix_commands.saltctl("setup"))
    if bound == ours:
        return ok(f"{facts.settings.buckets:,} buckets under {facts.settings.key_prefix}:, as the backup table has it")
    commands = facts.fix_commands
    buckets = bound[0].rpartition(":")[2]
    return fail(
        f"this client is set to {ours[0]} under {ours[1]!r}, and the backup table is bound to {bound[0]} under "
        f"{bound[1]!r}: it would look in the wrong buckets",
        f"{commands.set_variable('SALTCTL_BUCKETS', buckets)} "
        f"{commands.set_variable('SALTCTL_KEY_PREFIX', bound[1])[7:]}",
    )


def clock(facts: Facts) -> Finding:
    """Redis' clock and ours agree."""
    return combine(
        skip(f"{server.primary} does not say what time it is")
        if server.skew is None
        else skewed(f"the clock of {server.primary}", server.skew, facts, "redis_clock_skew_seconds")
        for server in facts.servers
    )


def skewed(whose: str, skew: float, facts: Facts, measure: str) -> Finding:
    """The finding about a clock that is ``skew`` seconds ahead of ours."""
    detail = f"{whose} and ours differ by {abs(skew):,.1f} s"
    measures = {measure: round(skew, 3)}
    if abs(skew) < SKEW_WARN:
        return ok(detail, **measures)
    fix = "sudo timedatectl set-ntp true"
    told = f"{detail}, {'theirs' if skew > 0 else 'ours'} is ahead: leases and windows are told by clocks"
    return fail(told, fix, **measures) if abs(skew) >= SKEW_FAIL else warn(told, fix, **measures)
