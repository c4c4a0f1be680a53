"""Discovers the registry from an export of the messages table to S3."""
