"""Hostile input through the command line: no defect, nothing raw on the terminal, the documented exit code.

``python -m tests.fuzz --inputs 100000`` spreads that many inputs over the entry points of ``entry_points``.
"""
