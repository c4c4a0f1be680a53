"""Hostile input to the command line: no internal error, no raw character, no secret, and a documented exit code.

``python -m tests.fuzz --inputs 100000`` spreads that many inputs over the functions of ``entry_points``.
"""
