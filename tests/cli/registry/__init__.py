"""Tests of saltctl.cli.registry."""
