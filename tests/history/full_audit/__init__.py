"""Tests of the audit of all conversations."""
