"""Commands for registry entries: `registry`, `compare` and `setup`."""
