"""Tests of saltctl.registry."""
