"""The circuit breaker of lookups: after a primary failed, they skip it for a short time.

It only saves time, so that an outage of Redis costs milliseconds and not timeouts: the answers of the backup are as
correct.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import ref

from saltctl.errors import SaltctlError, UnverifiedBucketError, UnverifiedError, WrongTypeError
from saltctl.forks import Process, this_process
from saltctl.registry.lookups import Attempt


class Breaker:
    """Which primaries lookups skip. Thread-safe, and for coroutines, too.

    Args:
        seconds: how long a primary is skipped after it failed, and once more after its first answer since an outage.
        clock: returns monotonic seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self.skip_until: dict[str, float] = {}
        """By primary that failed, the time until which lookups skip it. Empty without failures."""
        self._attempts: dict[tuple[str, Process], ref[Attempt]] = {}
        self._doubtful: set[str] = set()
        """Primaries that timed out or lost their connection, and have not answered since."""

    @contextmanager
    def attempt(self, primary: str) -> Iterator[bool]:
        """Tell the block whether to ask the primary. Once the pause is over, one lookup at a time does.

        The others skip it until that lookup has ended, or its task was cancelled.
        """
        # A fork copies the attempts of threads that the child lacks, so their key names the process.
        with Attempt(self._attempts, (primary, this_process())) as alone:
            yield alone and self._clock() >= self.skip_until.get(primary, 0.0)

    def note_failure(self, primary: str, exc: SaltctlError) -> None:
        """Skip the primary from now on, unless the error concerns one bucket alone.

        Any answer but a verified one is a reason. A damaged item keeps one bucket unverified, and it, or a value in
        it, may have been overwritten.
        """
        if self._seconds and not isinstance(exc, UnverifiedBucketError | WrongTypeError):
            self.skip_until[primary] = self._clock() + self._seconds
            # A primary that answers that it is not verified was not paused while it was verified.
            (self._doubtful.discard if isinstance(exc, UnverifiedError) else self._doubtful.add)(primary)

    def accepts(self, primary: str) -> bool:
        """Note that the primary answered; return whether to use its answer.

        A primary that was paused past its failover answers before it notices that it has no replicas, for up to a
        second (measured), if it has to have some (min-replicas-to-write). So the first answer after an outage is not
        used, and the primary is skipped once more.
        """
        if self.skip_until.pop(primary, None) is None or primary not in self._doubtful:
            return True
        self._doubtful.discard(primary)
        self.skip_until[primary] = self._clock() + self._seconds
        return False
