"""Tests of saltctl.stores.aws."""
