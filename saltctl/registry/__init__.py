"""The registry: lookups, raises, and everything that compares or fills it."""
