"""Tests of saltctl.cli.history."""
