"""The command `rebuild`."""
