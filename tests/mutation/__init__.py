"""Mutations of the modules that keep the promise: each changes one place, and a test must fail.

``python -m tests.mutation`` runs all of them. ``python_mutants`` and ``lua_mutants`` make the changes. ``targets``
names the modules and their tests, and ``run`` runs these on copies of the tree. ``survivors`` has the mutants that no
test needs to notice, each with its reason.
"""
