"""The checks of a round. Each does something as clients do; the judges decide afterwards on all that was recorded.

A check returns what it did, in words. It raises ``Unjudged`` if it has nothing to do now, and SaltctlError.
"""
