"""Benchmarks: saltctl, its alternatives and its floors in turn. ``python -m tests.benchmarks [NAME...] [--quick]``.

Times change with the machine and its load, but ratios within one run are stable. The tests of the benchmarks do not
check times. The benchmarks print each goal with the measured value, and whether it was reached.
"""
