"""Tests of saltctl.conformance."""
