"""Tests of saltctl.stores.heat."""
