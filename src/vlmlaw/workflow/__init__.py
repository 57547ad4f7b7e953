"""What runs, in which order, and what is up to date: the experiment as Snakemake and DVC see it.

In comes an experiment; out come the table of its stages (`stages.py`), each job's files, parameters and requests
(`plan.py`), and the answer to whether a result is still what its job would make now (`freshness.py`, by the records
beside the results). Nothing here knows torch or computes a result: jobs do, through the verbs of `vlmlaw.cli`.
"""
