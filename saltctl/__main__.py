"""The command ``saltctl``, also as ``python -m saltctl``: little is imported here before Ctrl-C is handled."""

from __future__ import annotations

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal, NoReturn

_STDERR = 2
_OBJECTS_OF_A_START = 200_000
"""More than the imports, the command tree and the clients of one command are, which is up to 170,000."""
_INTERRUPTED = "error: interrupted\n"


def main() -> NoReturn:
    """Run the command line and exit. A signal during the imports, half a second on a cold machine, is no traceback."""
    try:
        _end_on_signals()
    except KeyboardInterrupt:
        sys.stderr.write(_INTERRUPTED)
        sys.exit(130)
    _collect_after_the_start()
    try:
        from saltctl.cli import main as command_line

        command_line.main()
    finally:
        gc.freeze()  # the memory is the system's in a moment: the exit need not look for what is garbage


def _collect_after_the_start() -> None:
    """Put off the first collection of garbage until more objects are alive than a start makes, none of them garbage.

    To look at them again and again, and at the exit, took a third of a short command's time. That first collection
    leaves the objects that are alive out of all later ones, and those come as often as usual: memory stays flat.
    """
    usual = gc.get_threshold()

    def end_start(phase: Literal["start", "stop"], _: object) -> None:
        """Collect as usual from the first collection on."""
        if phase == "stop":
            gc.callbacks.remove(end_start)
            gc.freeze()
            gc.set_threshold(*usual)

    gc.callbacks.append(end_start)
    gc.set_threshold(_OBJECTS_OF_A_START, *usual[1:])


def _end_on_signals() -> None:
    """End the process at a signal, unless it is ignored: until the command begins, and once it has ended."""
    import signal

    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _end_at_once)


def _end_at_once(signum: int, _: object) -> NoReturn:
    # Without an exception: an import or a finalizer would print it, or lose it.
    try:
        os.write(_STDERR, _INTERRUPTED.encode())
    finally:
        os._exit(128 + signum)


if __name__ == "__main__":
    main()
