"""Checks of the settings, and of the permissions of Redis users."""

from __future__ import annotations

import shlex
import stat
from collections import Counter
from typing import Any

from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, combine, fail, ok, skip, warn
from saltctl.stores.redis.inspection import APP_USER, SERVICE_USER, ServerInfo
from saltctl.stores.redis.scripts import script_sha
from saltctl.urls import has_password


def settings(facts: Facts) -> Finding:
    """The settings are usable, and files with secrets are private."""
    settings = facts.settings
    origins = Counter(settings.origins.get(row["name"], "default").split(" ")[0] for row in settings.describe())
    set_by = ", ".join(f"{origins[kind]} from {kind}" for kind in ("flag", "environment", "context") if origins[kind])
    context = f"context {settings.context}" if settings.context else "no context"
    findings = [ok(f"{context}; {set_by or 'nothing set'}, {origins['default']} by default")]
    if not settings.redis_url:
        fix = facts.fix_commands.export(SALTCTL_REDIS_URL="redis://127.0.0.1:6379/0")
        findings.append(fail("redis_url is not set", fix))
    secret_files = [settings.redis_password_file]
    if settings.origins.get("redis_url", "").startswith("context") and has_password(settings.redis_url or ""):
        secret_files.append(facts.config_file)
    for file in filter(None, secret_files):
        quoted = shlex.quote(str(file))
        try:
            mode = stat.S_IMODE(file.stat().st_mode)
        except OSError as exc:
            findings.append(fail(f"cannot read {file}: {exc.strerror}", f"ls -l {quoted}"))
            continue
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            detail = f"{file} contains a password, and other users may read it (mode {mode:04o})"
            findings.append(warn(detail, f"chmod 600 {quoted}"))
    return combine(findings)


def redis_permissions(facts: Facts) -> Finding:
    """Redis users have the permissions that they need, and application servers cannot verify a server.

    Uses ACL DRYRUN, which runs no command.
    """
    findings = []
    for server in facts.servers:
        user = facts.redis.user(server.primary)
        if user is None:
            return skip(f"{server.primary} does not permit ACL WHOAMI: see saltctl service emit acl")
        if facts.redis.refused(server.primary, user, {"ping": ("PING",)}) is None:
            return skip(f"user {user} may not use ACL DRYRUN on {server.primary}: run doctor as an administrator")
        users = dict.fromkeys([user, SERVICE_USER, APP_USER] if user != APP_USER else [SERVICE_USER, APP_USER])
        findings += [_missing_permissions(facts, server, name) for name in users]
        findings.append(_forbidden_permissions(facts, server))
    return combine(findings)


def _missing_permissions(facts: Facts, server: ServerInfo, user: str) -> Finding:
    primary = server.primary
    missing = facts.redis.refused(primary, user, _needed_commands(facts, user))
    if missing is None:
        return skip(f"{primary} has no user {user}")
    if not missing:
        return ok(f"the user {user} has all permissions that it needs")
    prefix = facts.settings.key_prefix
    keys = ("r:*",) if user == APP_USER else ("r:*", "heat", "dead", "sum:*", "service")
    rules = (*missing, *(f"~{prefix}:{key}" for key in keys))
    fix = facts.fix_commands.acl_setuser(primary, facts.platform(server), user, rules)
    return fail(f"the user {user} may not {' '.join(missing)} on {primary}", fix)


def _forbidden_permissions(facts: Facts, server: ServerInfo) -> Finding:
    primary = server.primary
    forbidden = {"script": ("SCRIPT", "LOAD", "return 0"), "flushall": ("FLUSHALL",), "flushdb": ("FLUSHDB",)}
    refused = facts.redis.refused(primary, APP_USER, forbidden)
    if refused is None:
        return skip(f"{primary} has no user {APP_USER}")
    found = [word for word in forbidden if word not in refused]
    if not found:
        return ok(f"{APP_USER} can neither verify nor flush")
    rules = [f"-{word}" for word in found]
    fix = facts.fix_commands.acl_setuser(primary, facts.platform(server), APP_USER, rules)
    return warn(f"{APP_USER} may {', '.join(found)} on {primary}: an application server could verify or flush it", fix)


def _needed_commands(facts: Facts, user: str) -> dict[str, tuple[Any, ...]]:
    """Return a command for each ACL rule that the user needs."""
    prefix = facts.settings.key_prefix
    bucket, heat = f"{prefix}:r:0", f"{prefix}:heat"
    lookup = ("EVALSHA", script_sha("lookup"), 1, bucket, facts.layout, "-")
    if user == APP_USER:
        return {
            "+evalsha": lookup,
            "+hmget": ("HMGET", bucket, "#fence"),
            "+info": ("INFO", "replication"),
            f"(+xadd ~{heat})": ("XADD", heat, "*", "a", "b"),
        }
    return {
        "+evalsha": lookup,
        "+eval": ("EVAL", "return 0", 1, bucket),
        "+script|load": ("SCRIPT", "LOAD", "return 0"),
        "+info": ("INFO",),
        "+hget": ("HGET", bucket, "a"),
        "+hmget": ("HMGET", bucket, "a"),
        "+hgetall": ("HGETALL", bucket),
        "+hset": ("HSET", bucket, "a", "1"),
        "+hsetnx": ("HSETNX", bucket, "a", "1"),
        "+hdel": ("HDEL", bucket, "a"),
        "+expire": ("EXPIRE", f"{prefix}:sum:0", 1),
        "+xreadgroup": ("XREADGROUP", "GROUP", "g", "c", "STREAMS", heat, ">"),
        "+xack": ("XACK", heat, "g", "0-0"),
        "+xautoclaim": ("XAUTOCLAIM", heat, "g", "c", 0, "0-0"),
        "+xpending": ("XPENDING", heat, "g"),
        "+xadd": ("XADD", f"{prefix}:dead", "*", "a", "b"),
        "+xtrim": ("XTRIM", heat, "MINID", "0-0"),
        "+xinfo|stream": ("XINFO", "STREAM", heat),
        "+xinfo|groups": ("XINFO", "GROUPS", heat),
        "+xgroup|create": ("XGROUP", "CREATE", heat, "g", "0"),
    }
