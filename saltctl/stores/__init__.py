"""Adapters for Redis and AWS: the only modules that import their client libraries."""
