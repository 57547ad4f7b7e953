"""The linter of measured tables: what is odd about values, and what about the grid.

Comes in: a table of measurements. Goes out: findings, each with the cells that it is about and what to do. `lint.py` is
the way in. It fits nothing.
"""
