"""Tests of saltctl.cli.local."""
