"""``python -m saltctl`` is the command."""

from saltctl.cli.boundary import main

main()
