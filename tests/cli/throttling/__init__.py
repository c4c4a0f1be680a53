"""Tests of saltctl.cli.throttling."""
