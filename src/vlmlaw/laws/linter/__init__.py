"""Linter of measurement tables: checks of single values and of the grid.

A table of measurements comes in; findings go out, each with the cells that it concerns, why it matters and what to do.
The entry point is `lint.py`. The linter must not know the laws: it fits nothing.
"""
