"""Hot partition detection: count writes, add up heat reports, and raise N."""
