"""Fixtures of the tests of incidents."""

from tests.support.redis_servers import quick_starts

__all__ = ["quick_starts"]
