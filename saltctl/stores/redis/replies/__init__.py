"""Replies of Redis: their shapes, the errors that no retry helps, and the replicas that they name."""
