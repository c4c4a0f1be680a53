"""The rebuild: merge the backup into Redis and verify it."""
