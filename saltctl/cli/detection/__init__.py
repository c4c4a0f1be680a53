"""Commands for the hot partition service and its stream: `service` and `stream`."""
