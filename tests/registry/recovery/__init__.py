"""Tests of the recovery of a lost backup table."""
