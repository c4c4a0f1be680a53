"""Tests of saltctl.local.drills."""
