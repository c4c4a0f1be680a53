"""Brings the number of salts down again, without moving a message."""
