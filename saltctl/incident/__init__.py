"""Incidents: one timeline of what CloudWatch, Redis and the backup remember, and its measures."""
