"""Tests of stores/redis_async."""
