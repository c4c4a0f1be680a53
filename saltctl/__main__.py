"""The command ``saltctl``, also as ``python -m saltctl``: little is imported here before Ctrl-C is handled."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_STDERR = 2
_INTERRUPTED = "error: interrupted\n"


def main() -> NoReturn:
    """Run the command line and exit. A signal during the imports, half a second on a cold machine, is no traceback."""
    try:
        _end_on_signals()
    except KeyboardInterrupt:
        sys.stderr.write(_INTERRUPTED)
        sys.exit(130)
    from saltctl.cli import main as command_line

    command_line.main()


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
