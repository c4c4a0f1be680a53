"""Checks of the Redis servers: whether they can keep the promise."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper

from saltctl.errors import AccessDeniedError, SaltctlError
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, clock_skew, combine, fail, ok, skip, warn
from saltctl.stores.redis.inspection import ServerInfo
from saltctl.urls import parse_redis_url

MEMORY_WARN, MEMORY_FAIL = 0.75, 0.9
"""Shares of the memory that a server may use."""
DEFAULT_MAX_LAG = 3
"""Seconds for min-replicas-max-lag. A replica acknowledges every second. A failover takes 30 s with Sentinel and
15 s in a cluster, by default (documented)."""
_MEBI = 2**20


def each_primary(check: Callable[[Facts, ServerInfo], Finding]) -> Callable[[Facts], Finding]:
    """Make a check of one server a check of all primaries."""
    return update_wrapper(lambda facts: combine(check(facts, server) for server in facts.servers), check)


def reachable(facts: Facts) -> Finding:
    """Every primary answers and has loaded its data."""
    commands = facts.fix_commands
    if not facts.settings.redis_url:
        return fail("no Redis is configured", commands.export(SALTCTL_REDIS_URL="redis://127.0.0.1:6379/0"))
    try:
        servers = facts.servers
    except SaltctlError as exc:
        use_hint = exc.hint.startswith("saltctl ") and not isinstance(exc, AccessDeniedError)
        return fail(exc.message, exc.hint if use_hint else commands.saltctl("config", "show"))
    findings = []
    for server in servers:
        if int(server.info.get("loading", 0)):
            detail = f"{server.primary} is loading its data, {float(server.info.get('loading_loaded_perc', 0)):.0f} %"
            findings.append(fail(detail, commands.saltctl("rebuild", "--wait-redis", "15m")))
        else:
            detail = f"{server.primary} answers in {server.seconds * 1000:.1f} ms"
            findings.append(ok(detail, redis_seconds=server.seconds))
    return combine(findings)


def version(facts: Facts, server: ServerInfo) -> Finding:
    """The server is Redis 7 or newer, or Valkey: older versions replicate the script cache, and so the fence."""
    number = str(server.info.get("redis_version", "0"))
    first = number.partition(".")[0]
    if server.info.get("server_name") == "valkey":
        return ok(f"Valkey {server.info.get('valkey_version', number)}")
    if not first.isdigit() or int(first) < 7:
        detail = f"{server.primary} is Redis {number}: it replicates the script cache, and so the fence"
        return fail(detail, facts.fix_commands.redis_cli(server.primary, "INFO", "server"))
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
    primary = f"{info.get('master_host')}:{info.get('master_port')}"
    detail = f"{server.primary} is a replica of {primary}: it refuses lookups and raises"
    return fail(detail, facts.fix_commands.replace_server(server.primary, primary))


def aof(facts: Facts, server: ServerInfo) -> Finding:
    """An AOF restores the entries after a restart, so only the verification remains."""
    if int(server.info.get("aof_enabled", 0)):
        return ok("on")
    detail = f"{server.primary} has no AOF: after a restart every entry must be restored from the backup"
    return warn(detail, facts.fix_commands.config_set(server.primary, server.info, appendonly="yes"))


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
    return warn(detail, facts.fix_commands.config_set(server.primary, server.info, appendfsync="everysec"))


def persistence(facts: Facts, server: ServerInfo) -> Finding:
    """The latest AOF write and the latest AOF rewrite succeeded."""
    info, commands = server.info, facts.fix_commands
    if info.get("aof_last_write_status", "ok") != "ok":
        detail = f"{server.primary} cannot write its AOF and refuses raises (MISCONF): check for a full disk"
        return fail(detail, commands.redis_cli(server.primary, "INFO", "persistence"))
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        detail = f"{server.primary} cannot rewrite its AOF, which grows: check its log, memory and disk"
        return warn(detail, commands.redis_cli(server.primary, "BGREWRITEAOF"))
    if not int(info.get("aof_enabled", 0)):
        return skip("there is no AOF: see redis-aof")
    return ok("the latest write and the latest rewrite succeeded")


def eviction(facts: Facts, server: ServerInfo) -> Finding:
    """Redis evicts nothing: without its entry a salted conversation looks empty."""
    policy = str(server.info.get("maxmemory_policy", ""))
    if not policy:
        return skip(f"{server.primary} does not show its maxmemory-policy in INFO")
    if policy == "noeviction":
        return ok("noeviction")
    detail = f"{server.primary} evicts entries: its maxmemory-policy is {policy}"
    return fail(detail, facts.fix_commands.config_set(server.primary, server.info, maxmemory_policy="noeviction"))


def memory(facts: Facts, server: ServerInfo) -> Finding:
    """Redis has free memory: a full server refuses raises."""
    info, commands = server.info, facts.fix_commands
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
    if limit and (not machine or doubled < MEMORY_FAIL * machine):
        fix = commands.config_set(server.primary, info, maxmemory=doubled)
    else:
        fix = commands.redis_cli(server.primary, "MEMORY", "DOCTOR")
    rate = fail if share >= MEMORY_FAIL else warn
    return rate(f"{detail}; when it is full it refuses raises", fix, redis_memory_share=share)


def min_replicas(facts: Facts, server: ServerInfo) -> Finding:
    """A primary that is cut off from its replicas stops answering before another one is promoted."""
    info, primary = server.info, server.primary
    replicas = int(info.get("connected_slaves", 0))
    is_set = "min_slaves_good_slaves" in info  # INFO shows it only if both settings are above 0
    if not replicas and not is_set:
        return ok("no replicas, so there is no failover")
    fix = facts.fix_commands.config_set(primary, info, min_replicas_to_write=1, min_replicas_max_lag=DEFAULT_MAX_LAG)
    if not is_set:
        return warn(
            f"{primary} has {replicas} replicas and no min-replicas-to-write: if it is cut off from them it keeps "
            "serving old entries while a new primary takes raises",
            fix,
        )
    config = facts.config(primary)
    if config is None or "min-replicas-max-lag" not in config:
        return ok("min-replicas-to-write is set; its lag bound is unknown, since CONFIG GET is refused")
    lag, failover = int(config["min-replicas-max-lag"]), int(config.get("cluster-node-timeout") or 15000) / 1000
    if int(info.get("cluster_enabled", 0)) and lag >= failover:
        detail = f"{primary} has min-replicas-max-lag {lag}, not below cluster-node-timeout ({failover:g} s)"
        return warn(f"{detail}: after a failover there are two primaries for a while", fix)
    return ok(f"min-replicas-to-write {config['min-replicas-to-write']}, lag bound {lag} s: keep it below the failover")


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
        unfenced = f"{counts.buckets - counts.fenced:,} of {counts.buckets:,} buckets have no valid fence"
        reason = unfenced if counts.loaded else "it restarted or was never rebuilt"
        detail = f"{counts.primary} is not verified ({reason}): lookups use the backup"
        findings.append(fail(detail, facts.fix_commands.saltctl("rebuild"), registry_verified=0))
    return combine(findings)
