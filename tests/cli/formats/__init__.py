"""Tests of the text formats of records."""
