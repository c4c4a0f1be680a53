"""The error of a response that is not one."""


class UnreadableResponseError(Exception):
    """A response of another shape or size than AWS sends, for example from a proxy."""
