"""Tests of saltctl.cli.config."""
