"""Commands for the local environment: `local` and `drill`."""
