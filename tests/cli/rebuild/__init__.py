"""Tests of saltctl.cli.rebuild."""
