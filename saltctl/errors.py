"""Every error that saltctl raises on purpose, in one tree.

::

    SaltctlError                      1   internal error, if it is raised as itself
    ├── UsageError                    2   arguments that are not valid
    ├── IncompleteError               4   partly done; the hint names the command that completes it
    │   ├── RaiseIncompleteError          a raise stopped between two steps
    │   ├── RebuildBrokenError            Redis changed during a rebuild: nothing was verified
    │   └── ComparisonBrokenError         Redis lost entries during a comparison: it proves nothing
    ├── RefusedError                  6   the request is valid, but refused
    │   ├── InvalidConversationIdError
    │   ├── InvalidSaltCountError         not a power of two, above the cap, or lower than now
    │   ├── InvalidCursorError            damaged, forged, or of another conversation
    │   ├── CheckpointRefusedError        an interrupted rebuild cannot be resumed
    │   ├── SortKeyTakenError             another message has this sort key
    │   └── ConfirmationRequiredError     --yes is missing, or the context is protected
    ├── UnavailableError             69   an outage of Redis or AWS
    │   ├── RedisUnavailableError
    │   │   ├── UnverifiedError           Redis responds, but may lack entries of the backup
    │   │   └── StreamLostError           the heat stream or its consumer group is gone
    │   └── AwsUnavailableError
    │       ├── ThrottledError
    │       └── HistoryUnavailableError   a partition cannot be read: the history would be incomplete
    ├── LeaseHeldError               75   another process does the same work
    ├── AccessDeniedError            77   credentials or permission
    ├── ConfigurationError           78   a setting, a table or a server is not valid
    │   └── DamagedEntryError             a backup item that saltctl cannot have written
    └── DeadlineExceededError       124   --timeout

The number is the exit code of the command line (:class:`ExitCode`). ``code`` is the stable name that scripts match in
JSON. A message names the failure and the server or table; ``hint`` is the next command or action.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Literal, Self

RaiseStep = Literal["none", "backup", "redis", "commit"]
"""Last step of a raise that is known to be done, in the order of the protocol."""


class ExitCode(IntEnum):
    """The exit codes of the command line. A signal other than SIGINT exits with 128 plus its number instead.

    The commands raise ``typer.Exit`` with FOUND_SOMETHING or INCOMPLETE after they have printed their result; every
    other code comes from the error that ended the command. ``doctor --format nagios`` alone has codes of its own.
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
    """Root of all errors. ``hint`` is empty if there is no useful advice."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def with_hint(self, hint: str) -> Self:
        """Return a copy of the error with another hint, for an operation that knows better what to do next."""
        copied = type(self).__new__(type(self), *self.args)
        copied.__dict__.update(self.__dict__, hint=hint)
        return copied


class UsageError(SaltctlError):
    """The arguments are not valid."""

    exit_code = ExitCode.USAGE
    code = "usage"


class IncompleteError(SaltctlError):
    """Part of the work is done and kept; the hint names the command that completes it."""

    exit_code = ExitCode.INCOMPLETE
    code = "incomplete"


class RaiseIncompleteError(IncompleteError):
    """A raise stopped between two steps: readers may query too many partitions, never too few.

    ``step`` is the last step that is known to be done. The same raise, or a rebuild, completes it.
    """

    code = "raise_incomplete"

    def __init__(self, message: str, *, step: RaiseStep, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step


class RebuildBrokenError(IncompleteError):
    """Redis was flushed, evicted entries or failed over during a rebuild; it stays unverified."""

    code = "rebuild_broken"


class ComparisonBrokenError(IncompleteError):
    """Redis restarted, failed over or lost entries during a comparison with the backup."""

    code = "comparison_broken"


class RefusedError(SaltctlError):
    """The request is valid, but saltctl refuses it."""

    exit_code = ExitCode.REFUSED
    code = "refused"


class InvalidConversationIdError(RefusedError):
    """The id is empty, too long, not valid UTF-8, or contains a ``#``."""

    code = "invalid_conversation_id"


class InvalidSaltCountError(RefusedError):
    """N is not a power of two, is above the cap, or is lower than the N that readers cover already."""

    code = "invalid_n"


class InvalidCursorError(RefusedError):
    """The cursor is damaged or forged, or belongs to another conversation or table."""

    code = "invalid_cursor"


class CheckpointRefusedError(RefusedError):
    """The checkpoint of a rebuild is damaged, belongs to another registry, or is not valid any more."""

    code = "checkpoint_refused"


class SortKeyTakenError(RefusedError):
    """A message was not written: another message has the same sort key on the same partition."""

    code = "sort_key_taken"


class ConfirmationRequiredError(RefusedError):
    """The change cannot be undone, or the context is protected, and it was not confirmed."""

    code = "confirmation_required"


class UnavailableError(SaltctlError):
    """A server does not respond, or reports an outage."""

    exit_code = ExitCode.UNAVAILABLE
    code = "unavailable"


class RedisUnavailableError(UnavailableError):
    """No connection, a timeout, or LOADING, READONLY, NOREPLICAS, CLUSTERDOWN, MISCONF, OOM."""

    code = "redis_unavailable"


class UnverifiedError(RedisUnavailableError):
    """Redis responds, but no rebuild has verified this process and this role."""

    code = "redis_unverified"


class StreamLostError(RedisUnavailableError):
    """The heat stream or its consumer group does not exist; the service and `saltctl setup` create it."""

    code = "stream_lost"


class AwsUnavailableError(UnavailableError):
    """An AWS endpoint cannot be reached, or responds with a server error."""

    code = "aws_unavailable"


class ThrottledError(AwsUnavailableError):
    """AWS throttles the requests; retry later."""

    code = "throttled"


class HistoryUnavailableError(AwsUnavailableError):
    """Some partitions of a history cannot be read. The others are not returned as if they were complete.

    ``partitions`` has the error of each partition, by partition key.
    """

    code = "history_unavailable"

    def __init__(self, message: str, *, partitions: Mapping[str, SaltctlError], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.partitions = dict(partitions)


class LeaseHeldError(SaltctlError):
    """Another process holds the lease. The message names the process."""

    exit_code = ExitCode.LEASE_HELD
    code = "lease_held"


class AccessDeniedError(SaltctlError):
    """Credentials are missing, wrong or expired, or lack a permission."""

    exit_code = ExitCode.ACCESS_DENIED
    code = "access_denied"


class ConfigurationError(SaltctlError):
    """A setting, a table or a server is not valid; a retry does not help."""

    exit_code = ExitCode.CONFIGURATION
    code = "configuration"


class DamagedEntryError(ConfigurationError):
    """max_n or write_n of a backup item is missing or is not a positive whole number."""

    code = "damaged_entry"


class DeadlineExceededError(SaltctlError):
    """``--timeout`` passed before the work was done."""

    exit_code = ExitCode.TIMEOUT
    code = "timeout"
