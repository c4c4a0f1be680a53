"""Commands that judge the state of the system: `status` and `doctor`."""
