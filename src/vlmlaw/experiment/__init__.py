"""The experiment file: its sections, the checks across sections, the grid of cells, and the compute budget.

A YAML file comes in; a frozen and checked `Experiment` goes out, with the settings of each stage (whose classes are
defined beside the stages) and an estimate of its GPU-hours. The package must know neither rules nor result files, and
imports torch only where the shape of a model is needed.
"""
