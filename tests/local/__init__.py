"""Tests of saltctl.local."""
