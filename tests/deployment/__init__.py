"""Tests of saltctl.deployment."""
