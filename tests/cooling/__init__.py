"""Tests of cooling."""
