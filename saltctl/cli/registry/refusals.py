"""What ``saltctl registry set`` and ``registry cool`` refuse, each with the command that was probably meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from saltctl import salting
from saltctl.commands import command_line
from saltctl.errors import InvalidSaltCountError, UsageError
from saltctl.salting import nearest_salt_count, power_of_two_at_least

Options = Mapping[str, object]
"""The options of the command, by their names, that the right command has, too."""


def check_alone(file: str, conversation: str | None) -> None:
    """Refuse a conversation next to a file."""
    if conversation is not None:
        raise UsageError(
            "cannot use --file with CONV and N: the file names the conversations",
            hint=command_line("registry", "set", "--file", file),
        )


def check_not_lower(conversation: str, n: int, backup_n: int, redis_n: int, options: Options) -> None:
    """Refuse an N below the one of either side."""
    if n >= backup_n and n >= redis_n:
        return
    more = max(backup_n, redis_n)
    has, why = f"{conversation!r} already has {more} salts", "readers would miss the messages on the upper salts"
    if redis_n > backup_n:
        ids = [conversation, str(power_of_two_at_least(more))]
        raised = command_line("registry", "set", ids=ids, given=options)
        raise InvalidSaltCountError(f"{has}, in Redis alone, and N never goes down: {why}", hint=raised)
    raise InvalidSaltCountError(
        f"{has}, and N never goes down: {why}. Cooling lets new messages use fewer",
        hint=command_line("registry", "cool", ids=[conversation], given={"--to": n, **options}),
    )


def check_salt_count(n: int, cap: int, again: Callable[[int], str]) -> None:
    """Refuse an invalid N; the hint is ``again`` of a valid one: the same command with that."""
    try:
        salting.check_salt_count(n, cap)
    except InvalidSaltCountError as exc:
        if not 1 <= n <= cap:
            raise
        raise exc.with_hint(again(nearest_salt_count(n, cap))) from None
