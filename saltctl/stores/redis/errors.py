"""Translates redis-py's errors into saltctl's, the most specific first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from saltctl.commands import hint_of
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    RebuildBrokenError,
    RedisUnavailableError,
    SaltctlError,
    StreamLostError,
    UnverifiedBucketError,
    UnverifiedError,
    WrongTypeError,
)
from saltctl.stores.bounded.errors import OPEN_FILES_HINT, open_files_problem
from saltctl.stores.bounded.reply_limit import OUT_OF_STEP
from saltctl.stores.redis.replies.misconfiguration import hint_of_outage, misconfiguration
from saltctl.urls import known_address
from saltctl.values import REGISTRY_ID

REDIRECTING = ("MOVED", "ASK", "TRYAGAIN")
# Error replies of outages and role changes, by their first word (see Redis' documentation). redis-py has classes only
# for some of them, and its versions differ, so the word decides.
_OUTAGES = {
    "LOADING": "it is loading its data",
    "READONLY": "it is a replica, or was demoted to one",
    "NOREPLICAS": "it is cut off from its replicas",
    "MASTERDOWN": "it is a replica whose primary is down",
    "CLUSTERDOWN": "its cluster is down",
    "TRYAGAIN": "a slot is being moved",
    "MOVED": "the slot has moved to another primary",
    "ASK": "the slot is being moved to another primary",
    "MISCONF": "it cannot persist its data and refuses writes",
    "OOM": "its memory is full",
    "BUSY": "a script is running for too long",
    "UNKILLABLE": "a script is running for too long",
}
_DEFAULT_HINT = (
    "check that it runs and that SALTCTL_REDIS_URL names it\n"
    "saltctl doctor --only redis\nsaltctl rebuild --wait-redis 15m"
)
_LOGIN_HINT = (
    "correct the user or the password in the URL or in redis_password_file; config show names where they come from\n"
    "saltctl config show"
)
_ACL_HINT = "permit them in the user's ACL, which this prints for each role\nsaltctl service emit acl"
_OUTAGE_HINTS = {
    **dict.fromkeys(REDIRECTING, "try again"),
    **dict.fromkeys(("OOM", "MISCONF"), "give the server memory or disk; see its log"),
    **dict.fromkeys(
        ("BUSY", "UNKILLABLE"),
        "a script, function or module blocks it: wait for its end, or end it by SCRIPT KILL or FUNCTION KILL",
    ),
    "LOADING": "saltctl rebuild --wait-redis 15m",
}
# If redis-py has a class for an error reply, it removes the word from the message.
_WORD_OF_CLASS = {
    "AskError": "ASK",
    "BusyLoadingError": "LOADING",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "MasterDownError": "MASTERDOWN",
    "MovedError": "MOVED",
    "NoPermissionError": "NOPERM",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")
_DENIED_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")
"""Messages of Valkey and Redis if the ACL permits a script but not a command in it; their first word is ERR."""
_NO_STREAM = "has no heat stream, or no consumer group on it"
# The other error replies: error, message after the server's name, hint. {detail} is the reply without its first word.
_REPLIES: dict[str, tuple[type[SaltctlError], str, str]] = {
    "NOSCRIPT": (UnverifiedError, "is not verified: it has (re)started since", "saltctl rebuild"),
    "UNVERIFIED": (UnverifiedBucketError, "is not verified: its fence is missing or foreign", "saltctl rebuild"),
    "BROKEN": (
        RebuildBrokenError,
        "changed while it was being rebuilt: {detail}",
        "nothing was verified and nothing is lost\nsaltctl rebuild",
    ),
    "DENIED": (
        AccessDeniedError,
        "refuses other machines: it has no password and is in protected mode",
        "give it a password (requirepass), and name it in redis_password_file; or turn protected-mode off behind a "
        "firewall",
    ),
    "NOGROUP": (StreamLostError, _NO_STREAM, "saltctl setup"),
    "UNBLOCKED": (StreamLostError, _NO_STREAM, "saltctl setup"),
    "WRONGTYPE": (
        WrongTypeError,
        "has a key of saltctl that was overwritten with another type of value (WRONGTYPE {detail})",
        "delete that key, whose name begins with the setting key_prefix\nsaltctl rebuild",
    ),
    "CROSSSLOT": (
        ConfigurationError,
        "is a node of a cluster",
        "write redis+cluster:// or rediss+cluster:// in SALTCTL_REDIS_URL",
    ),
    "NOREPLID": (
        ConfigurationError,
        "does not show its replication id, which the fence needs",
        "it must be Redis 7 or newer, or Valkey, with INFO permitted",
    ),
}


def first_word(exc: Exception) -> str:
    """Return the first word of an error reply, which identifies the error."""
    return _WORD_OF_CLASS.get(type(exc).__name__) or " ".join(str(exc).split()).split(" ", 1)[0]


def refuses_login(exc: Exception) -> bool:
    """Return whether an error says that the password is missing or wrong."""
    import redis.exceptions as driver

    return isinstance(exc, driver.AuthenticationError) or first_word(exc) in ("NOAUTH", "WRONGPASS")


def redirection(reply: Any, asked: str = "") -> tuple[str, bool] | None:
    """Return the target of a MOVED or ASK reply and whether to send ASKING first; None for any other reply.

    A node that does not know the target's host leaves it out, or names it ``?``: it is the host that was ``asked``.
    """
    if not isinstance(reply, Exception) or (word := first_word(reply)) not in ("MOVED", "ASK"):
        return None
    host, _, port = str(reply).rpartition(" ")[2].rpartition(":")
    address = known_address(host, int(port) if port.isdecimal() else 0, asked)
    return (str(address), word == "ASK") if address else None


def out_of_step() -> Exception:
    """Return the error for a reply that may belong to another command. Its connection is not used again."""
    import redis.exceptions as driver

    return driver.ConnectionError(OUT_OF_STEP)


def naming_key(reply: Exception, key: str) -> Exception:
    """Return an error reply to a command about one key; if the key was overwritten, the error names it."""
    import redis.exceptions as driver

    return driver.ResponseError(f"WRONGTYPE {key}") if first_word(reply) == "WRONGTYPE" else reply


def translate(exc: Exception, where: str, *, clustered: bool = True) -> SaltctlError:
    """Return the saltctl error for an exception of redis-py. ``where`` names the server, without a password.

    Unless the URL is that of a cluster (``clustered``), a redirection shows that it has to be.
    """
    import redis.exceptions as driver

    if isinstance(cause := getattr(exc, "cause", None), SaltctlError):  # no token for IAM authentication
        # An outage of this login alone: with more time, the backup may be reached.
        outage = isinstance(cause, AwsUnavailableError)
        return RedisUnavailableError(f"no login to Redis at {where}: {cause}", hint=cause.hint) if outage else cause
    # redis-py repeats the address.
    text = re.sub(r"^Error -?[0-9]+ connecting to \S+\. (.)", r"\1", " ".join(str(exc).split()))
    word = first_word(exc)
    if word in REDIRECTING and not clustered:
        word = "CROSSSLOT"
    denied = word in _DENIED or any(part in text for part in _DENIED_IN_SCRIPT)
    if isinstance(exc, driver.AuthenticationError | driver.AuthorizationError) or denied:
        what, hint = ("credentials", _LOGIN_HINT) if refuses_login(exc) else ("commands of this user", _ACL_HINT)
        return AccessDeniedError(f"Redis at {where} refuses these {what}: {text[:300].rstrip('.')}", hint=hint)
    if word == "OTHERLAYOUT":
        _, fence, ours = f"{text} ".split(" ", 2)
        return other_registry(fence, ours.strip(), where)
    if word in _REPLIES:
        error, message, hint = _REPLIES[word]
        detail = text.split(" ", 1)[-1]
        return error(f"Redis at {where} {message.format(detail=detail)}", hint=hint)
    if word not in _OUTAGES and (wrong := misconfiguration(text)) is not None:
        return ConfigurationError(f"Redis at {where} {wrong[0]}", hint=wrong[1])
    if word in _OUTAGES:
        problem = f"refuses: {_OUTAGES[word]} ({word})"
    elif too_many := open_files_problem(exc):
        return RedisUnavailableError(f"no connection to Redis at {where}: {too_many}", hint=OPEN_FILES_HINT)
    elif text == OUT_OF_STEP:
        problem = OUT_OF_STEP
    elif isinstance(exc, driver.TimeoutError | TimeoutError):
        problem = "did not answer in time"
    elif isinstance(exc, driver.ConnectionError | OSError):
        problem = f"cannot be reached: {text.rstrip('.')}"
    else:
        problem = f"answered with an error: {text}"
    known = word in _OUTAGES or isinstance(exc, driver.ConnectionError | driver.TimeoutError | OSError)
    hint = _OUTAGE_HINTS.get(word) or hint_of_outage(exc, text, where) or _DEFAULT_HINT
    return RedisUnavailableError(f"Redis at {where} {problem}", hint=hint, answered=not known)


def other_registry(fence: str, ours: str, where: str) -> ConfigurationError:
    """Return the error for a fence that does not name the layout ``ours``."""
    theirs = fence.rpartition(":")[0]
    if not theirs:
        return ConfigurationError(
            f"Redis at {where} has a bucket whose fence another program overwrote: {fence!r:.60}",
            hint="delete the field #fence of each such bucket\nsaltctl rebuild",
        )
    if theirs.rpartition(":")[0] != ours.rpartition(":")[0]:
        version = re.escape(ours.partition(":")[0])
        buckets = re.fullmatch(rf"{version}:([0-9]{{1,9}}):[^:]*", theirs)
        return ConfigurationError(
            f"Redis at {where} holds a registry of another layout: {theirs}",
            hint=hint_of(
                "every client of this Redis has to use this layout",
                f"export SALTCTL_BUCKETS={buckets[1]}" if buckets else "it takes the version of saltctl that wrote it",
            ),
        )
    registry_id = theirs.rpartition(":")[2]
    known = re.fullmatch(REGISTRY_ID, registry_id)
    return ConfigurationError(
        f"Redis at {where} holds another registry, {registry_id}; that of this backup table is "
        f"{ours.rpartition(':')[2]}",
        hint="check SALTCTL_BACKUP_TABLE, AWS_REGION, SALTCTL_REDIS_URL and SALTCTL_KEY_PREFIX; only if Redis is to "
        "belong to this table:\n"
        + (f"saltctl recover --take-over {registry_id} --dry-run" if known else "saltctl recover --dry-run"),
    )


def moved(where: str) -> RebuildBrokenError:
    """Return the error of a rebuild if a bucket is not on the primary that it was on at the start."""
    return RebuildBrokenError(
        f"buckets of Redis at {where} moved to another primary while it was being rebuilt",
        hint="nothing was verified and nothing is lost; wait until no slots move any more\nsaltctl rebuild",
    )


@contextmanager
def redis_errors(where: str, on_outage: Callable[[], None] = lambda: None, *, clustered: bool = True) -> Iterator[None]:
    """Translate redis-py's errors inside the block, as :func:`translate` does.

    ``on_outage`` is called before an outage's error is raised.
    """
    try:
        yield
    except Exception as exc:
        import redis.exceptions as driver

        if not isinstance(exc, driver.RedisError | driver.RedisClusterException | OSError):
            raise
        error = translate(exc, where, clustered=clustered)
        if type(error) is RedisUnavailableError:
            on_outage()
        raise error from exc
