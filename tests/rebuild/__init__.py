"""Tests of saltctl.rebuild."""
