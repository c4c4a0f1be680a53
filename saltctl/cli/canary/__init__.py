"""The command ``saltctl canary``."""
