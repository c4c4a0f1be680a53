"""Commands for throttle metrics and alarms: `throttle`."""
