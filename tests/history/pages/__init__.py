"""Tests of saltctl.history.pages."""
