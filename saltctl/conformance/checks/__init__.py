"""The checks of a trial, one module for each part of the rules."""
