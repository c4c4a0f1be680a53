"""Tests of saltctl.cli.detection."""
