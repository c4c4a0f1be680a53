"""Commands that diagnose the state of the system: `status` and `doctor`."""
