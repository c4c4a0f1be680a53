"""Fixtures of the tests of the registry."""

from tests.support.redis_servers import quick_starts

__all__ = ["quick_starts"]
