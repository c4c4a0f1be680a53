"""Benchmarks: peer, floor and saltctl in turn, in one run. ``python -m tests.benchmarks [NAME...] [--quick]``.

Figures drift with the machine and with whatever else it does; ratios within one run hold. Nothing here is a
timed test: goals are printed beside what was measured, reached or not.
"""
