"""Tests of saltctl.health."""
