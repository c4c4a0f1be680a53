"""Deployment files from the current settings, which install nothing and hold no secret."""
