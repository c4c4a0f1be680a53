"""Tests of saltctl.stores.redis."""
