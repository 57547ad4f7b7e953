"""Evaluation of trained cells on the test split and on benchmarks, and the measurements that result.

A trained cell and a test split or a file of questions come in; scores with standard errors, FLOPs and parameters of the
cell, measurements.csv and a model card go out. Evaluation must not know experiments or rules, nor how a cell was
trained.
"""
