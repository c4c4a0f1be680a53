"""Tests of the files of an export."""
