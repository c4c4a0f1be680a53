"""Tests of saltctl.aio."""
