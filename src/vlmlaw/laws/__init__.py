"""Scaling laws: their families, fits, intervals, selection and frontier. Imports neither torch nor snakemake."""
