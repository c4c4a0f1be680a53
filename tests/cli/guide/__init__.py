"""Tests of saltctl.cli.guide."""
