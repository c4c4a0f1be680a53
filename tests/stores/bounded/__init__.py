"""Tests of saltctl.stores.bounded."""
