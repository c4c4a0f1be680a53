"""Tests of saltctl.stores.redis.replies."""
