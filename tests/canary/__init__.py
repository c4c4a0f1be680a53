"""Tests of the canary: the judges, its rounds, and the mutants that it finds."""
