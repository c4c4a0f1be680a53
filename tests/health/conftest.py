"""Fixtures of the tests of the doctor."""

from tests.support.redis_servers import quick_starts

__all__ = ["quick_starts"]
