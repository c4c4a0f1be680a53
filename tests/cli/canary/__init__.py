"""Tests of saltctl.cli.health."""
