"""What a cell is asked, who answers, how the answer is judged, and the row that comes of it.

Comes in: a trained cell, a test split or a file of questions. Goes out: scores with their standard errors, FLOPs and
parameters of the cell, measurements.csv, a model card. It knows nothing of experiments or rules, nor of how the cell
was trained.
"""
