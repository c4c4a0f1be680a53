"""Tests of saltctl.incident."""
