"""The experiment file: its sections, the checks that no value alone shows, the grid, and the budget.

Comes in: a YAML file. Goes out: an `Experiment`, frozen and checked, with the settings of each stage (which stand
beside the stages, in the folders below) and an estimate of what it takes. It knows no rule, no file of results, and
imports torch only where the shape of a model must be known.
"""
