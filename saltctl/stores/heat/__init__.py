"""The heat stream in Redis, and the state of the hot partition service."""
