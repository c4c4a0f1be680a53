"""The command ``saltctl``, also as ``python -m saltctl``: little is imported here before Ctrl-C is handled."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command line and exit. Ctrl-C during the imports, half a second on a cold machine, is no traceback."""
    try:
        from saltctl.cli import main as command_line
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        sys.exit(130)
    command_line.main()


if __name__ == "__main__":
    main()
