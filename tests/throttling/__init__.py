"""Tests of saltctl.throttling."""
