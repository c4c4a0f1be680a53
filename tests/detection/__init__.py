"""Tests of saltctl.detection."""
