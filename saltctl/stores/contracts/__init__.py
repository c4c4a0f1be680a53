"""What operations may expect of a store: values, semantics and errors. No client library is imported here.

Every implementation, the real ones and those in memory, keeps what these docstrings say; the protocol is proved
against them (tests/model).
"""
