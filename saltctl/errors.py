"""Every error that saltctl raises on purpose, in one tree.

::

    SaltctlError                      1   a defect, if it is ever raised as itself
    ├── UsageError                    2   arguments that cannot be understood
    ├── IncompleteError               4   partly done; the hint names what finishes it
    │   ├── RaiseIncompleteError          a raise stopped between two of its steps
    │   ├── RebuildBrokenError            Redis changed under a rebuild: nothing was verified
    │   └── ComparisonBrokenError         Redis lost entries while it was compared: nothing was proved
    ├── RefusedError                  6   understood, and not done
    │   ├── InvalidConversationIdError
    │   ├── InvalidSaltCountError         not a power of two, above the cap, or lower than now
    │   ├── InvalidCursorError            damaged, invented, or of another conversation
    │   ├── CheckpointRefusedError        a broken rebuild cannot be taken up again
    │   ├── SortKeyTakenError             another message has this sort key
    │   └── ConfirmationRequiredError     also: a protected context
    ├── UnavailableError             69   an outage of Redis or AWS
    │   ├── RedisUnavailableError
    │   │   ├── UnverifiedError           Redis answers, and may not hold what the backup holds
    │   │   └── StreamLostError           the heat stream or its consumer group is gone
    │   └── AwsUnavailableError
    │       ├── ThrottledError
    │       └── HistoryUnavailableError   a partition of a history cannot be read: it would be incomplete
    ├── LeaseHeldError               75   somebody else is at it
    ├── AccessDeniedError            77   credentials or permission
    ├── ConfigurationError           78   a setting, a table or a server is not as it must be
    │   └── DamagedEntryError             a backup item that saltctl cannot have written
    └── DeadlineExceededError       124   --timeout

The number is the exit code of the command line. ``code`` is the stable name that scripts match in JSON.
Messages say what failed and where; ``hint`` says what to do next, as a command where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Literal, Self

RaiseStep = Literal["none", "backup", "redis", "commit"]
"""The last step of a raise that is known to be done, in the order of the protocol."""


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
    """The root. ``hint`` is empty where nothing useful can be said."""

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
    """Arguments that cannot be understood."""

    exit_code = ExitCode.USAGE
    code = "usage"


class IncompleteError(SaltctlError):
    """Part of the work was done and is kept; the hint names what finishes it."""

    exit_code = ExitCode.INCOMPLETE
    code = "incomplete"


class RaiseIncompleteError(IncompleteError):
    """A raise stopped half-way: readers may look in too many places, never in too few.

    ``step`` is the last step known to be done. Running the same raise again, or a rebuild, completes it.
    """

    code = "raise_incomplete"

    def __init__(self, message: str, *, step: RaiseStep, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.step = step


class RebuildBrokenError(IncompleteError):
    """Redis was flushed, evicted from or failed over while it was being rebuilt; the fence stayed up."""

    code = "rebuild_broken"


class ComparisonBrokenError(IncompleteError):
    """Redis restarted, failed over or lost entries while it was compared with the backup."""

    code = "comparison_broken"


class RefusedError(SaltctlError):
    """The request was understood and is not carried out."""

    exit_code = ExitCode.REFUSED
    code = "refused"


class InvalidConversationIdError(RefusedError):
    """The id is empty, too long, no valid UTF-8, or holds a ``#``."""

    code = "invalid_conversation_id"


class InvalidSaltCountError(RefusedError):
    """N is not a power of two, is above the cap, or is lower than what readers already cover."""

    code = "invalid_n"


class InvalidCursorError(RefusedError):
    """The cursor is damaged or invented, or belongs to another conversation or table."""

    code = "invalid_cursor"


class CheckpointRefusedError(RefusedError):
    """The checkpoint of a rebuild is damaged, of another registry, or no longer holds."""

    code = "checkpoint_refused"


class SortKeyTakenError(RefusedError):
    """A message was not written, since a message with another id has its sort key on the same partition."""

    code = "sort_key_taken"


class ConfirmationRequiredError(RefusedError):
    """The change cannot be undone, or the context is protected, and nobody confirmed it."""

    code = "confirmation_required"


class UnavailableError(SaltctlError):
    """A server does not answer, or answers that it is in trouble."""

    exit_code = ExitCode.UNAVAILABLE
    code = "unavailable"


class RedisUnavailableError(UnavailableError):
    """No connection, no answer in time, or LOADING, READONLY, NOREPLICAS, CLUSTERDOWN, MISCONF, OOM."""

    code = "redis_unavailable"


class UnverifiedError(RedisUnavailableError):
    """Redis answers, but was not proved to hold what the backup holds since it last changed identity."""

    code = "redis_unverified"


class StreamLostError(RedisUnavailableError):
    """The heat stream or its consumer group is gone; the service and `saltctl setup` create it again."""

    code = "stream_lost"


class AwsUnavailableError(UnavailableError):
    """An AWS endpoint cannot be reached or answers with a server error."""

    code = "aws_unavailable"


class ThrottledError(AwsUnavailableError):
    """AWS refuses more requests for now; a retry later succeeds."""

    code = "throttled"


class HistoryUnavailableError(AwsUnavailableError):
    """Partitions of a history cannot be read, and what the others hold is not passed off as the whole.

    ``partitions`` names them, with what each of them failed of.
    """

    code = "history_unavailable"

    def __init__(self, message: str, *, partitions: Mapping[str, SaltctlError], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.partitions = dict(partitions)


class LeaseHeldError(SaltctlError):
    """Another process holds the lease; the message names it."""

    exit_code = ExitCode.LEASE_HELD
    code = "lease_held"


class AccessDeniedError(SaltctlError):
    """Credentials are missing, wrong or expired, or do not allow the call."""

    exit_code = ExitCode.ACCESS_DENIED
    code = "access_denied"


class ConfigurationError(SaltctlError):
    """A setting, a table or a server is not as it must be; retrying does not help."""

    exit_code = ExitCode.CONFIGURATION
    code = "configuration"


class DamagedEntryError(ConfigurationError):
    """A backup item whose max_n or write_n is missing or is no positive whole number."""

    code = "damaged_entry"


class DeadlineExceededError(SaltctlError):
    """``--timeout`` passed before the work was done."""

    exit_code = ExitCode.TIMEOUT
    code = "timeout"
