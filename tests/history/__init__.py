"""Tests of saltctl.history."""
