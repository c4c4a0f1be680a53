"""Lookups in Redis for event loops, over the connections, commands and errors of stores/redis."""
