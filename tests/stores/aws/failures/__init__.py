"""Tests of saltctl.stores.aws.failures."""
