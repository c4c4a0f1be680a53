"""The audit of every conversation of the registry: in turns, within a rate, and spread over many runs."""
