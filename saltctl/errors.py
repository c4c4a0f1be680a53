"""Every error that saltctl raises on purpose, in one tree.

::

    SaltctlError                      1   internal error, if it is raised as itself
    ├── UsageError                    2   arguments that are not valid
    ├── IncompleteError               4   partly done; the hint names the command that completes it
    │   ├── RaiseIncompleteError          a raise stopped between two steps
    │   ├── RebuildBrokenError            Redis changed during a rebuild: nothing was verified
    │   ├── ComparisonBrokenError         Redis lost entries during a comparison: it proves nothing
    │   └── ReadBrokenError               Redis lost entries while they were read: some are missing
    ├── RefusedError                  6   the request is valid, but refused
    │   ├── InvalidConversationIdError
    │   ├── InvalidSaltCountError         not a power of two, above the cap, or lower than now
    │   ├── InvalidCursorError            damaged, forged, or of another conversation
    │   ├── CheckpointRefusedError        an interrupted rebuild cannot be resumed
    │   ├── RegistryExistedError          a new registry would hide messages: its backup was lost
    │   ├── UnknownTimesError             sort keys hold no times that are known
    │   ├── SortKeyTakenError             another message has this sort key
    │   └── ConfirmationRequiredError     --yes is missing, or the context is protected
    ├── UnavailableError             69   an outage of Redis or AWS
    │   ├── RedisUnavailableError
    │   │   ├── UnverifiedError           Redis responds, but may lack entries of the backup
    │   │   │   └── UnverifiedBucketError     so does this bucket; others may be verified
    │   │   ├── WrongTypeError            a key of the registry or of detection has another type
    │   │   └── StreamLostError      78   the heat stream or its consumer group is missing
    │   ├── StaleLookupError              the lookup of a write is too old: nothing was written
    │   └── AwsUnavailableError
    │       ├── MismatchedResponseError   the response belongs to another request
    │       ├── ThrottledError
    │       └── HistoryUnavailableError   a partition cannot be read: the history would be incomplete
    ├── LeaseHeldError               75   another process does the same work
    ├── AccessDeniedError            77   credentials or permission
    ├── ConfigurationError           78   a setting, a table or a server is not valid
    │   ├── DamagedEntryError             a backup item that saltctl cannot have written
    │   ├── OtherRegistryError            the settings do not fit the registry of the table
    │   └── BackupLostError               the backup table is new, restored or copied
    └── DeadlineExceededError       124   --timeout

The number is the exit code of the command line (:class:`ExitCode`). ``code`` is the stable name that scripts match in
JSON. A message names the failure and the server or table; ``hint`` is the next command or action.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from copyreg import __newobj__  # type: ignore[attr-defined]  # as object.__reduce_ex__ names it
from enum import IntEnum
from typing import Any, ClassVar, Literal, Self

from saltctl.masking import without_secrets

RaiseStep = Literal["none", "backup", "redis", "commit"]
"""Last step of a raise that is known to be done, in the order of the protocol."""


class ExitCode(IntEnum):
    """The exit codes of the command line. A signal other than SIGINT exits with 128 plus its number instead.

    The commands raise ``typer.Exit`` with FOUND_SOMETHING or INCOMPLETE after they have printed their result; every
    other code comes from the error that ended the command. ``--format nagios`` alone has codes of its own.
    """

    DONE = 0
    """Done, or nothing to do."""
    INTERNAL = 1
    USAGE = 2
    FOUND_SOMETHING = 3
    """The command ran, and found drift, throttling, a failed check or a stalled stream."""
    INCOMPLETE = 4
    REFUSED = 6
    UNAVAILABLE = 69
    LEASE_HELD = 75
    ACCESS_DENIED = 77
    CONFIGURATION = 78
    TIMEOUT = 124
    INTERRUPTED = 130
    """SIGINT."""


class SaltctlError(Exception):
    """Root of all errors. ``hint`` is empty if there is no useful advice.

    ``id_unknown``: the id of the registry could not be read, without which neither Redis nor the backup answers.
    """

    id_unknown = False
    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    code: ClassVar[str] = "internal"

    def __init_subclass__(cls, *, code: str = "", exit_code: ExitCode | None = None) -> None:
        cls.code = code or cls.code
        cls.exit_code = exit_code or cls.exit_code

    def __init__(self, message: str, *, hint: str = "") -> None:
        message = without_secrets(message)  # it may quote what a server or a driver said
        super().__init__(message)
        self.message = message
        self.hint = hint

    def with_hint(self, hint: str) -> Self:
        """Return a copy of the error with another hint, for an operation that knows better what to do next."""
        copied = copy(self)
        copied.hint = hint
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy an error of any subclass: a pool of processes hangs if an exception cannot be unpickled."""
        return __newobj__, (type(self), *self.args), self.__dict__


class UsageError(SaltctlError, code="usage", exit_code=ExitCode.USAGE):
    """The arguments are not valid."""


def closed(name: str) -> UsageError:
    """Return the error of an object that is used after its ``close``."""
    return UsageError(f"this {name} is closed", hint="open another one")


class IncompleteError(SaltctlError, code="incomplete", exit_code=ExitCode.INCOMPLETE):
    """Part of the work is done and kept; the hint names the command that completes it."""


class RaiseIncompleteError(IncompleteError, code="raise_incomplete"):
    """A raise stopped between two steps: readers may query too many partitions, never too few.

    ``step`` is the last step that is known to be done. The same raise, or a rebuild, completes it.
    """

    def __init__(self, message: str, *, step: RaiseStep, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step


class RebuildBrokenError(IncompleteError, code="rebuild_broken"):
    """Redis was flushed, evicted entries or failed over during a rebuild; it stays unverified."""


class ComparisonBrokenError(IncompleteError, code="comparison_broken"):
    """Redis restarted, failed over or lost entries during a comparison with the backup."""


class ReadBrokenError(IncompleteError, code="read_broken"):
    """Redis restarted, failed over or lost entries while they were read."""


class RefusedError(SaltctlError, code="refused", exit_code=ExitCode.REFUSED):
    """The request is valid, but saltctl refuses it."""


class UnknownTimesError(RefusedError, code="unknown_times"):
    """The sort keys of a conversation hold no times that are known, so that its boundary would have no margin."""


class InvalidConversationIdError(RefusedError, code="invalid_conversation_id"):
    """The id is empty, too long, not a string of valid UTF-8, or contains a ``#``."""


class InvalidSaltCountError(RefusedError, code="invalid_n"):
    """N is not a power of two, is above the cap, or is lower than the N that readers cover already."""


class InvalidCursorError(RefusedError, code="invalid_cursor"):
    """The cursor is damaged or forged, or belongs to another conversation or table."""


class CheckpointRefusedError(RefusedError, code="checkpoint_refused"):
    """The checkpoint of a rebuild is damaged, belongs to another registry, or is not valid any more."""


class RegistryExistedError(RefusedError, code="registry_existed"):
    """The backup table has no registry, but Redis, the table or the messages show that there was one."""


class SortKeyTakenError(RefusedError, code="sort_key_taken"):
    """A message was not written: another message has the same sort key on the same partition."""


class ConfirmationRequiredError(RefusedError, code="confirmation_required"):
    """The change cannot be undone, or the context is protected, and it was not confirmed."""


class UnavailableError(SaltctlError, code="unavailable", exit_code=ExitCode.UNAVAILABLE):
    """A server does not respond, or reports an outage.

    ``answered``: it responded, with an error that may concern one key or item alone.
    """

    def __init__(self, message: str, *, hint: str = "", answered: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.answered = answered


class RedisUnavailableError(UnavailableError, code="redis_unavailable"):
    """No connection, a timeout, or LOADING, READONLY, NOREPLICAS, CLUSTERDOWN, MISCONF, OOM."""


class UnverifiedError(RedisUnavailableError, code="redis_unverified"):
    """Redis responds, but no rebuild has verified this process and this role."""


class UnverifiedBucketError(UnverifiedError, code="redis_bucket_unverified"):
    """The bucket of a conversation is not verified; the others of this process may be."""


class WrongTypeError(RedisUnavailableError, code="wrong_type"):
    """A key of the registry or of detection was overwritten with a value of another type."""


class StreamLostError(RedisUnavailableError, code="stream_lost", exit_code=ExitCode.CONFIGURATION):
    """The heat stream or its consumer group does not exist; the service and `saltctl setup` create it.

    Redis answers, and a later try meets the same, so that its exit code is that of a missing table.
    """


class StaleLookupError(UnavailableError, code="stale_lookup"):
    """A message was not written: the process stopped for so long that readers may not cover its salt any more."""


class AwsUnavailableError(UnavailableError, code="aws_unavailable"):
    """An AWS endpoint cannot be reached, or responds with a server error."""


class ThrottledError(AwsUnavailableError, code="throttled"):
    """AWS throttles the requests; retry later."""


class MismatchedResponseError(AwsUnavailableError, code="mismatched_response"):
    """A response belongs to another request. A write may have been done, and may be repeated."""


class HistoryUnavailableError(AwsUnavailableError, code="history_unavailable"):
    """Some partitions of a history cannot be read. The others are not returned as if they were complete.

    ``partitions`` has the error of each partition, by partition key.
    """

    def __init__(self, message: str, *, partitions: Mapping[str, SaltctlError], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.partitions = dict(partitions)


class LeaseHeldError(SaltctlError, code="lease_held", exit_code=ExitCode.LEASE_HELD):
    """Another process holds the lease. The message names the process."""


class AccessDeniedError(SaltctlError, code="access_denied", exit_code=ExitCode.ACCESS_DENIED):
    """Credentials are missing, wrong or expired, or lack a permission."""


class ConfigurationError(SaltctlError, code="configuration", exit_code=ExitCode.CONFIGURATION):
    """A setting, a table or a server is not valid; a retry does not help."""


class DamagedEntryError(ConfigurationError, code="damaged_entry"):
    """max_n or write_n of a backup item is missing or is not a positive whole number."""


class BackupLostError(ConfigurationError, code="backup_lost"):
    """The backup table is not the one that holds the registry: it is new, or was restored or copied."""


class OtherRegistryError(ConfigurationError, code="other_registry"):
    """The settings, or this version, do not fit the registry of the table: only a process with other ones can help."""


class DeadlineExceededError(SaltctlError, code="timeout", exit_code=ExitCode.TIMEOUT):
    """``--timeout`` passed before the work was done."""
