"""The circuit breaker on its own."""

from __future__ import annotations

from saltctl.registry.circuit_breaker import CircuitBreaker


def test_the_breaker_is_per_server() -> None:
    """Failures of another server do not count, and a success closes the breaker at once."""
    breaker = CircuitBreaker(5.0, lambda: 1000.0)
    breaker.trip("a")
    assert breaker.is_open("a")
    assert not breaker.is_open("b")
    breaker.reset("b")
    assert breaker.is_open("a")
    breaker.reset("a")
    assert not breaker.is_open("a")


def test_a_breaker_of_zero_seconds_never_opens() -> None:
    """With breaker_seconds 0 every lookup asks Redis."""
    breaker = CircuitBreaker(0.0, lambda: 1000.0)
    breaker.trip("a")
    assert not breaker.is_open("a")


def test_an_open_breaker_closes_after_its_seconds() -> None:
    """The server is skipped for exactly that long after its last failure."""
    now = 1000.0
    breaker = CircuitBreaker(5.0, lambda: now)
    breaker.trip("a")
    now = 1004.0
    assert breaker.is_open("a")
    breaker.trip("a")
    now = 1008.9
    assert breaker.is_open("a")
    now = 1009.0
    assert not breaker.is_open("a")
