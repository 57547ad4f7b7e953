"""The report: figures of the laws and the measurements, and one self-contained HTML page with the results.

The analysis of a law (`vlmlaw law fit TABLE --out law.json`) and the table that it was fitted to come in; figures, the
page and a summary for the terminal go out. Files of the workflow (cells, samples, the experiment) are optional. The
report must not know rules, and it neither fits a law nor trains or evaluates a cell.
"""
