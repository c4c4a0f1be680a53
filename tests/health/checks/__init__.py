"""Tests of saltctl.health.checks."""
