"""Health checks: the doctor, and the status of every part."""
