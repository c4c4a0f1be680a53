"""``python -m saltctl`` is the command."""

from saltctl.cli.main import main

main()
