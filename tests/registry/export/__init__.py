"""Tests of discovery from an export."""
