"""Reads the files of an export, and keeps what was found in them."""
