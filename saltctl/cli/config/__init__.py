"""`config`: the settings, and the configuration file."""
