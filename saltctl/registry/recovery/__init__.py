"""Recovers a registry whose backup table was lost."""
